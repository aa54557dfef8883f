"""What set methods get of the pool: the rows that are left, by file; or features of chosen rows, memory mapped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import barrier, gather_objects, on_rank_zero, rank, sum_over_ranks, world_size
from clipsift_common.engines.base import Engine, Group
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import track
from selection.features.files import FeatureRows, bad_rows, copy_rows, normalised
from selection.features.sizes import count_rows
from selection.kernels.moments import gram
from selection.kernels.transfer import placed
from selection.methods import METHODS
from selection.recipe.left import FilesLeft, write_left
from selection.recipe.step import Step
from selection.registry import Candidates, LeftRows
from selection.shuffle.cells import sample_images


@dataclass
class PoolFeatures:
    """Features by row of the pool, where ``files`` follow one another; its methods are collective calls.

    Args:
        files: the metadata, in pool order.
        device: where methods work when the chosen features fit.
        target: features of a target set by name.
        scratch: a folder that all ranks see, for one uncompressed file per tower, as large as the chosen features.
        normalise: bring every row to unit length.
        identity: of the selection; what a killed one of the same identity has left in ``scratch`` is used again.
        engine: who does the units of work that methods by file are made of.
    """

    files: Sequence[FeatureRows]
    device: torch.device
    target: Callable[[str], Tensor]
    scratch: Path
    normalise: bool = False
    identity: str = ""
    engine: Engine = field(default_factory=Group)

    def __post_init__(self) -> None:
        on_rank_zero(self._remove_others)

    def _remove_others(self) -> None:
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            if not self.identity or folder.name != self.identity:
                shutil.rmtree(folder)

    @cached_property
    def _starts(self) -> np.ndarray:
        """(files + 1,) the first row of each file, and the end; asked for by all ranks."""
        return np.cumsum([0, *count_rows(self.files)])

    @property
    def _folder(self) -> Path:
        return self.scratch / ".gathered"

    def kept_rows(self, step: Step, masks: Mapping[int, np.ndarray], num_pool: int, seed: int) -> dict[int, np.ndarray]:
        """Ascending rows that a method which works by file keeps of each of this rank's files.

        ``masks``: (rows,) bool by the number of each of this rank's files, which rows are left.
        Raises :class:`ClipsiftError` for options that the method refuses and files that cannot be read.
        """
        spec, left = METHODS[step.method], self._left(step.name, masks, step.seed(seed))
        try:
            return spec.kept_rows(left, step.size(num_pool) if spec.sized else None, step.options)
        except ValueError as error:
            raise ClipsiftError(f"selection: {step.name}: {error}") from error

    def sample(self, wanted: int, seed: int) -> list[Path]:
        """Arrays of image features of about ``wanted`` usable rows of the whole pool, at random, a file each."""
        numbers = range(rank(), len(self.files), world_size())
        masks = {number: np.ones(self.files[number].num_rows(), bool) for number in numbers}
        left = self._left("sample", masks, seed)
        return sample_images(left, wanted, left.folder / "rows")

    def _left(self, name: str, masks: Mapping[int, np.ndarray], seed: int) -> LeftRows:
        folder = self._folder / (self.identity or "new") / name
        return LeftRows(
            FilesLeft(tuple(self.files), folder, self.normalise),
            write_left(folder, masks, len(self.files)),
            list(masks),
            folder,
            seed,
            self.device,
            self.engine,
            self.target,
            self.moment,
        )

    def kept_of(self, step: Step, rows: np.ndarray, num_pool: int, seed: int) -> np.ndarray:
        """(m,) bool, which of the pool's ``rows`` (m,) ascending, the same on every rank, such a method keeps."""
        bounds, masks = np.searchsorted(rows, self._starts), {}
        for number in range(rank(), len(self.files), world_size()):
            masks[number] = np.zeros(int(self._starts[number + 1] - self._starts[number]), bool)
            masks[number][rows[bounds[number] : bounds[number + 1]] - self._starts[number]] = True
        shares = gather_objects(self.kept_rows(step, masks, num_pool, seed))
        found = [self._starts[number] + kept for share in shares for number, kept in share.items()]
        return np.isin(rows, np.concatenate([np.empty(0, np.int64), *found]))

    def candidates(self, rows: np.ndarray, needs: tuple[str, ...], seed: int) -> tuple[Candidates, np.ndarray]:
        """Of ``rows`` (m,) ascending, those whose features are finite and not zero, and the (m,) mask of these.

        The ranks read the files together; every rank then maps the same arrays, until the next call or :meth:`close`.
        Raises :class:`ClipsiftError` for files that cannot be read or differ in width.
        """
        self.close()
        stores = self._create(rows, needs)
        usable = np.zeros(len(rows), np.int64)
        for span, parts in self._read(rows, needs):
            usable[span] = ~np.any([bad_rows(part) for part in parts.values()], axis=0)
            for tower, part in parts.items():
                if part.shape[1] != stores[tower].shape[1]:
                    raise ClipsiftError(f"{tower} features of the pool's files differ in width")
                stores[tower][span] = normalised(part) if self.normalise else part
        chosen = sum_over_ranks(usable) > 0
        for store in stores.values():
            store.flush()
        barrier()
        if not chosen.all():
            on_rank_zero(lambda: _close_up(list(stores.values()), chosen))
        num_usable = int(np.count_nonzero(chosen))
        towers_found = {
            tower: placed(torch.from_numpy(store[:num_usable]), self.device) for tower, store in stores.items()
        }
        empty = torch.empty(num_usable, 0)
        image, text = towers_found.get("image", empty), towers_found.get("text", empty)
        device = next(iter(towers_found.values()), empty).device
        found = Candidates(image, text, seed, target=lambda name: self.target(name).to(device))
        return found, chosen

    def close(self) -> None:
        """Delete the files that were gathered, once no rank looks at them any more."""
        barrier()
        on_rank_zero(lambda: shutil.rmtree(self._folder, ignore_errors=True))

    def moment(self) -> Tensor:
        """(d, d) float32 second moment of the image features of the whole pool, unusable rows left out."""
        total, count = torch.zeros(()), 0
        for start in track(
            range(0, len(self.files), world_size()), "second moment", unit="files of a rank", brief=True
        ):
            part = self._moment_of(start + rank())
            for sums, num_rows in gather_objects(part):  # in order of the files, so that the sum is always the same
                if num_rows:
                    total, count = total + sums, count + num_rows
        if not count:
            raise ClipsiftError("the pool has no features")
        return (total / count).float()

    def _moment_of(self, number: int) -> tuple[Tensor, int]:
        """The (d, d) float64 sum over a file's usable rows, and how many: none where there is no such file."""
        if number >= len(self.files):
            return torch.empty(0), 0
        features = self.files[number].image()
        good = ~bad_rows(features)
        features = features if good.all() else features[good]
        chosen = torch.from_numpy(normalised(features) if self.normalise else features)
        return gram(chosen.to(self.device)).double().cpu(), len(chosen)

    def _create(self, rows: np.ndarray, towers: tuple[str, ...]) -> dict[str, np.memmap]:
        """An array in a file for each tower, of the dtype and width of the first file that has any of ``rows``."""
        first = self.files[int(np.searchsorted(self._starts, rows[0], "right")) - 1] if len(rows) else self.files[0]
        on_rank_zero(lambda: self._create_files(first, len(rows), towers))
        return {tower: np.lib.format.open_memmap(self._path(tower), "r+") for tower in towers}

    def _create_files(self, first: FeatureRows, num_rows: int, towers: tuple[str, ...]) -> None:
        self._folder.mkdir(parents=True)
        for tower in towers:
            array = getattr(first, tower)()
            np.lib.format.open_memmap(self._path(tower), "w+", array.dtype, (num_rows, array.shape[1]))

    def _path(self, tower: str) -> Path:
        return self._folder / f"{tower}.npy"

    def _read(self, rows: np.ndarray, towers: tuple[str, ...]) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Yield, for this rank's files, the span of ``rows`` that is in each and their features by tower."""
        bounds = np.searchsorted(rows, self._starts)
        mine = range(rank(), len(self.files), world_size())
        for number in track(mine, "gather features", unit="files"):
            span = slice(int(bounds[number]), int(bounds[number + 1]))
            if span.stop > span.start:
                local = rows[span] - self._starts[number]
                yield span, {tower: getattr(self.files[number], tower)()[local] for tower in towers}


def _close_up(stores: Sequence[np.memmap], chosen: np.ndarray) -> None:
    """Move the chosen rows to the front."""
    for store in stores:
        copy_rows(store, chosen, store)
        store.flush()
