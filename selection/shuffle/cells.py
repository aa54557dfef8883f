"""A pool's rows by cell: the nearest of a few coarse centroids, inside of which finer clusters are then made.

Two levels, because k clusters of one level cost k products a row: with about 2 sqrt(k) cells and sqrt(k) / 2 clusters
in each, a row costs 2.5 sqrt(k), and k may grow with the pool. Every step is a unit that writes a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import save_array
from selection.kernels.checks import check_same_width
from selection.kernels.kmeans import SAMPLES_PER_CENTROID, kmeans, nearest
from selection.kernels.tiles import tiles
from selection.registry import LeftFiles, LeftRows
from selection.shuffle.spill import Spills, write_spill
from selection.shuffle.units import make_units

TILE = 1 << 16  # rows whose cells are found at a time


def num_cells(clusters: int) -> int:
    """How many cells ``clusters`` are made in: 2 sqrt(clusters), rounded up, at most one for each."""
    return min(clusters, math.ceil(2 * math.sqrt(clusters)))


def split_clusters(clusters: int, sizes: np.ndarray) -> np.ndarray:
    """(cells,) int64 clusters of each cell: in proportion to its ``sizes`` (rows), ``clusters`` in all.

    At least one where there are rows, at most one for each row; what rounding leaves goes to the largest remainders.
    """
    counts = (sizes > 0).astype(np.int64)
    rest = max(0, clusters - int(counts.sum()))
    whole, remainder = np.divmod(rest * sizes, max(1, int(sizes.sum())))
    counts += whole
    most = np.argsort(-remainder, kind="stable")[: rest - int(whole.sum())]
    counts[most] += 1
    return np.minimum(counts, sizes)


def sample_images(left: LeftRows, wanted: int, folder: Path) -> list[Path]:
    """Arrays of image features of a random sample of about ``wanted`` rows, a file each; a collective call."""
    total = sum(left.counts)
    work = _Sample(left.files, min(1.0, wanted / max(1, total)), left.seed)
    return make_units(left.engine, "sample", work, folder, len(left.counts))


def coarse_centroids(left: LeftRows, cells: int, folder: Path) -> Tensor:
    """(cells, d) float32 k-means centroids of a sample, fewer where there are fewer rows; a collective call."""
    paths = sample_images(left, SAMPLES_PER_CENTROID * cells, folder / "sample")
    work = _Coarse(tuple(paths), cells, left.seed, left.device)
    made = make_units(left.engine, "coarse centroids", work, folder / "coarse", 1)
    return torch.from_numpy(np.load(made[0]))


def spill_by_nearest(left: LeftRows, centroids: Tensor, cells: list[slice], folder: Path) -> Spills:
    """The image features of all rows that are left, by cell; a collective call.

    ``cells``: which of the ``centroids`` (k, d) make a cell; a row is in that of its nearest.
    """
    cell_of = np.repeat(np.arange(len(cells)), [part.stop - part.start for part in cells])
    work = _Spill(left.files, centroids.cpu(), cell_of, len(cells), left.device)
    return Spills(make_units(left.engine, "rows by cell", work, folder, len(left.counts)))


@dataclass(frozen=True)
class _Sample:
    files: LeftFiles
    share: float
    seed: int

    def __call__(self, number: int, path: Path) -> None:
        file = self.files.open(number, ("image",))
        chosen = np.flatnonzero(_uniform([self.seed, number], len(file.rows)) < self.share)
        save_array(path, file.take("image", chosen))


@dataclass(frozen=True)
class _Coarse:
    samples: tuple[Path, ...]
    cells: int
    seed: int
    device: torch.device

    def __call__(self, _: int, path: Path) -> None:
        sample = torch.from_numpy(join_samples(self.samples)).to(self.device)
        cells = min(self.cells, len(sample))
        found = kmeans(sample, cells, self.seed) if cells else torch.empty(0, sample.shape[1])
        save_array(path, found.cpu().numpy())


@dataclass(frozen=True)
class _Spill:
    files: LeftFiles
    centroids: Tensor
    cell_of: np.ndarray
    num_cells: int
    device: torch.device

    def __call__(self, number: int, path: Path) -> None:
        file = self.files.open(number, ("image",))
        cells, centroids = np.empty(len(file.rows), np.int64), self.centroids.to(self.device)
        for part in tiles(len(file.rows), TILE) if len(file.rows) else ():
            rows = torch.from_numpy(file.take("image", part)).to(self.device)
            check_same_width(rows, centroids, "centroids")
            cells[part] = self.cell_of[nearest(rows, centroids).cpu().numpy()]
        write_spill(path, cells, self.num_cells, file.rows, {"image": partial(file.take, "image")})


def join_samples(paths: Sequence[Path]) -> np.ndarray:
    """(n, d) what :func:`sample_images` has written. Raises :class:`ClipsiftError` for files of different widths."""
    parts = [np.load(path) for path in paths]  # not mapped: there may be more of them than files that may be open
    if len({part.shape[1] for part in parts}) > 1:
        raise ClipsiftError("image features of the pool's files differ in width")
    return np.concatenate(parts)


def _uniform(seed: list[int], count: int) -> np.ndarray:
    """(count,) random numbers in [0, 1): raw ones, which are the same in every version of numpy."""
    return (np.random.PCG64(np.random.SeedSequence(seed)).random_raw(count) >> np.uint64(11)) * 2.0**-53
