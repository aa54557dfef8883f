"""Rows spilled by group: a file for each source, its rows in order of group, so that a group is a slice of each.

Nothing is appended and nobody writes what another one writes: a source's file is whole or absent, and a group is read
from all of them in the order of the sources. Memory does not grow with the rows: files are mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from clipsift_common.errors import is_out_of_files
from clipsift_common.files import atomic_path, save_array
from selection.kernels.tiles import tiles

TILE = 8192  # rows written or read at a time
MOST_MAPPED = 30_000  # files; Linux maps 65,530 things for a process

Take = Callable[[np.ndarray], np.ndarray]  # rows of a tower by their index


def write_spill(path: Path, groups: np.ndarray, num_groups: int, rows: np.ndarray, towers: Mapping[str, Take]) -> None:
    """Write ``path`` and beside it where its groups begin.

    Args:
        groups: (m,) group of each row, from 0 to ``num_groups``.
        rows: (m,) what the rows are called in their source, ascending, below 2^32.
        towers: gives for indices into ``rows`` the (k, d) features, by tower.
    """
    order = groups.argsort(kind="stable")
    starts = np.concatenate([[0], np.bincount(groups, minlength=num_groups).cumsum()]).astype(np.int64)
    some = {name: take(order[:1]) for name, take in towers.items()}
    fields = [("row", np.uint32), *((name, part.dtype, part.shape[1:]) for name, part in some.items())]
    save_array(starts_of(path), starts)
    with atomic_path(path) as temporary:
        if not len(rows):
            with open(temporary, "wb") as handle:
                np.save(handle, np.empty(0, np.dtype(fields)))
            return
        records = np.lib.format.open_memmap(temporary, "w+", np.dtype(fields), (len(rows),))
        for part in tiles(len(rows), TILE):
            records["row"][part] = rows[order[part]]
            for name, take in towers.items():
                records[name][part] = take(order[part])
        records.flush()


def starts_of(path: Path) -> Path:
    """Where the places of a spill's groups are written; before the spill itself, which then means both."""
    return path.with_name(f"{path.stem}_starts.npy")


class Spills:
    """Spills of all sources, by their order."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self._mapped: dict[Path, np.ndarray] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"paths": self.paths, "_mapped": {}}

    def _map(self, path: Path) -> np.ndarray:
        """The array in a file, mapped; kept so, because opening thousands of files for every group takes long."""
        if path not in self._mapped:
            array = self._opened(lambda: np.load(path, mmap_mode="r"))
            if len(self._mapped) == MOST_MAPPED:
                return array
            self._mapped[path] = array
        return self._mapped[path]

    def _opened(self, opening: Callable[[], np.ndarray]) -> np.ndarray:
        """What ``opening`` maps; when too many files are open, those that are kept are closed first."""
        try:
            return opening()
        except OSError as error:
            if not is_out_of_files(error) or not self._mapped:
                raise
            self._mapped.clear()
            return opening()

    def sizes(self) -> np.ndarray:
        """(groups,) int64 rows of each group over all sources."""
        return np.sum([np.diff(np.load(starts_of(path))) for path in self.paths], axis=0)

    def read(self, group: int, towers: Sequence[str]) -> tuple[np.ndarray, dict[str, Tensor]]:
        """(m,) uint64 places of a group's rows, source * 2^32 + row, ascending, and their (m, d) features by tower.

        Features lie in unnamed files on the disk, mapped.
        """
        slices = list(self._slices(group))
        total = sum(stop - start for *_, start, stop in slices)
        places = np.empty(total, np.uint64)
        stores: dict[str, np.ndarray] = {}
        at = 0
        for source, path, start, stop in slices:
            records = self._map(path)
            for first in range(start, stop, TILE):
                part = records[first : min(first + TILE, stop)]
                here = slice(at, at + len(part))
                places[here] = np.uint64(source << 32) + part["row"]
                for name in towers:
                    if name not in stores:
                        shape = (total, part[name].shape[1])
                        stores[name] = self._opened(partial(unnamed, path.parent, part[name].dtype, shape))
                    stores[name][here] = part[name]
                at += len(part)
        return places, {name: torch.from_numpy(store) for name, store in stores.items()}

    def _slices(self, group: int) -> Iterator[tuple[int, Path, int, int]]:
        """Source, its file, and from where to where the group's rows are in it; only sources that have any."""
        for source, path in enumerate(self.paths):
            start, stop = self._map(starts_of(path))[group : group + 2].tolist()
            if stop > start:
                yield source, path, start, stop


def unnamed(folder: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """An array in a file without a name, gone when nobody looks at it any more."""
    with TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def rows_by_source(paths: Sequence[Path], sources: Sequence[int]) -> dict[int, np.ndarray]:
    """Ascending rows of each of ``sources`` among the places in the files ``paths``, which are looked at in turn."""
    found: dict[int, list[np.ndarray]] = {source: [] for source in sources}
    bounds = np.array([[source << 32, (source + 1) << 32] for source in sources], np.uint64)
    for path in paths:
        places = np.load(path, mmap_mode="r")
        if len(places) and len(bounds):
            for source, (start, stop) in zip(sources, np.searchsorted(places, bounds).tolist()):
                found[source].append((places[start:stop] & np.uint64(0xFFFFFFFF)).astype(np.int64))
    return {source: np.sort(np.concatenate([np.empty(0, np.int64), *parts])) for source, parts in found.items()}
