"""SemDeDup (Abbas et al. 2023, arXiv 2303.09540): of near-duplicates inside a cluster, one stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import on_rank_zero
from clipsift_common.files import save_array
from clipsift_common.progress import track
from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_same_width
from selection.kernels.kmeans import kmeans, nearest
from selection.kernels.moments import group_means
from selection.kernels.products import multiply
from selection.kernels.tiles import ROW_TILE, fill_rows, linear_tiles, tile_map, tiles
from selection.kernels.transfer import placed
from selection.options import PositiveInt
from selection.registry import LeftRows, register_method
from selection.shuffle.cells import coarse_centroids, num_cells, spill_by_nearest, split_clusters
from selection.shuffle.spill import Spills, rows_by_source
from selection.shuffle.units import make_units

ROWS_PER_CLUSTER = 8_800  # as in the paper: 50,000 clusters of 440 million


@on_arrays
def semdedup(features: Tensor, clusters: Tensor, epsilon: float, keep: str = "hard") -> Tensor:
    """(n,) bool mask of the samples that stay.

    In each cluster the samples are ordered by their cosine to the centroid; one is dropped when its inner product with
    any earlier one, dropped or not, is above ``1 - epsilon``. Of equal rows the first in pool order is the earlier.
    Time O(d) times the sum of squared cluster sizes, memory O(n).

    Args:
        features: (n, d) unit image features.
        clusters: (n,) integer labels, whose means are then the centroids; or (k, d) centroids, each sample belonging
            to the nearest by Euclidean distance. The paper has 50,000, from k-means.
        epsilon: in [0, 2]; larger drops more.
        keep: which of a pair stays, "hard" (farther from the centroid, the paper's choice) or "easy".

    Raises:
        ValueError: shapes that do not fit, negative labels, another ``keep`` or ``epsilon``, a row that is not finite.
    """
    _check(epsilon, keep)
    norms = check_features(features)
    labels, centroids = _clusters(features, clusters)
    scale = norms * centroids.norm(dim=1)[labels]
    to_centre = torch.empty_like(scale)
    parts = linear_tiles(len(features), features.device)
    cosine = fill_rows(to_centre, lambda rows: (features[rows].float() * centroids[labels[rows]]).sum(1), parts) / scale

    order = cosine.argsort(stable=True)  # farthest first
    order = order[labels[order].argsort(stable=True)]
    members = [part for part in order.split(labels.bincount().tolist()) if len(part)]
    if keep == "easy":
        members = [part.flip(0) for part in members]
    closest = tile_map(lambda part: _closest_earlier(features[part]), members, features.device)
    kept = torch.ones(len(features), dtype=torch.bool, device=features.device)
    for part, similarity in zip(members, track(closest, "semdedup", len(members), "clusters", brief=True)):
        kept[part] = similarity <= 1 - epsilon
    return kept


def _check(epsilon: float, keep: str) -> None:
    if keep not in ("hard", "easy"):
        raise ValueError(f"keep must be hard or easy, got {keep}")
    if not 0 <= epsilon <= 2:
        raise ValueError(f"epsilon {epsilon} is outside [0, 2]")


def _clusters(features: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) labels and (k, d) float32 centroids."""
    if clusters.ndim == 2:
        check_features(clusters, "clusters")
        check_same_width(features, clusters, "clusters")
        return nearest(features, clusters.float()), clusters.float()
    if clusters.shape != (len(features),) or clusters.is_floating_point():
        raise ValueError(f"clusters: expected {len(features)} integer labels, got {clusters.dtype} {clusters.shape}")
    labels = clusters.long()
    if len(labels) and int(labels.min()) < 0:
        raise ValueError("clusters: labels must not be negative")
    return labels, group_means(features, labels, int(labels.max()) + 1 if len(labels) else 0)


def _closest_earlier(features: Tensor) -> Tensor:
    """(m,) largest inner product of each row with a row before it; minus infinity where none is."""
    features = features if features.is_cuda else features.float()  # once, not for each tile
    closest = torch.full((len(features),), -torch.inf, device=features.device)
    for rows in tiles(len(features), ROW_TILE):
        for earlier in tiles(rows.stop, ROW_TILE):
            products = multiply(features[earlier], features[rows].T)
            if earlier.stop > rows.start:  # row i of the tile is before its column j when i + start < j + start
                later = torch.ones_like(products, dtype=torch.bool).tril(earlier.start - rows.start)
                products.masked_fill_(later, -torch.inf)
            closest[rows] = torch.maximum(closest[rows], products.amax(0))
    return closest


@register_method("semdedup", needs=("image",), by_file=True, version=2)
def semdedup_method(
    left: LeftRows,
    epsilon: float,
    clusters: PositiveInt | None = None,
    centroids: str | None = None,
    keep_in_pair: Literal["hard", "easy"] = "hard",
) -> dict[int, np.ndarray]:
    """``centroids`` names them as a target; without it they are made by k-means, ``clusters`` of them.

    By default a cluster for every 8,800 rows, the paper's proportion (50,000 for 440 million). They are made on two
    levels: first cells of the pool, then clusters in each cell.
    """
    _check(epsilon, keep_in_pair)
    if centroids is None:
        total = sum(left.counts)
        number = min(clusters or -(-total // ROWS_PER_CLUSTER), total)
        given = coarse_centroids(left, num_cells(number), left.folder)
        cells = tiles(len(given), 1) if len(given) else []
    else:
        given = left.target(centroids).float().cpu()
        cells = tiles(len(given), -(-len(given) // num_cells(len(given))))
    spills = spill_by_nearest(left, given, cells, left.folder / "cells")
    sizes = on_rank_zero(spills.sizes)
    made = split_clusters(number, sizes) if centroids is None else None
    own = None if centroids is None else [given[part] for part in cells]
    work = _KeptOfCell(spills, sizes, made, own, epsilon, keep_in_pair, left.seed, left.device)
    paths = make_units(left.engine, "semdedup", work, left.folder / "kept", len(cells), sizes)
    return rows_by_source(paths, left.mine)


@dataclass(frozen=True)
class _KeptOfCell:
    """Deduplicates one cell: with its ``own`` centroids, or with as many as are to be ``made``."""

    spills: Spills
    sizes: np.ndarray
    made: np.ndarray | None
    own: list[Tensor] | None
    epsilon: float
    keep: str
    seed: int
    device: torch.device

    def __call__(self, cell: int, path: Path) -> None:
        save_array(path, self._kept(cell) if self.sizes[cell] else np.empty(0, np.uint64))

    def _kept(self, cell: int) -> np.ndarray:
        places, towers = self.spills.read(cell, ("image",))
        image = placed(towers["image"], self.device)
        if self.own is None:
            assert self.made is not None
            centroids = kmeans(image, int(self.made[cell]), self.seed)
        else:
            centroids = self.own[cell].to(image.device)
        return places[semdedup(image, centroids, self.epsilon, self.keep).cpu().numpy()]
