"""The rank of every value among all values of all ranks, which nobody holds: sorted runs on disk, merged by stretches.

The distinct values of some millions of rows at a time make a sorted run, with how many rows lie below each. Stretches
of values that all runs are cut at alike are merged, each by one rank, and say for every value of every run how many
rows of the pool lie below it. That is exact for any ties, and no row moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsift_common.distributed import barrier, gather_objects, rank, sum_over_ranks, world_size
from clipsift_common.files import wait_for

RUN_ROWS = 1 << 22  # sorted in memory at a time
STRETCH_VALUES = 1 << 22  # merged in memory at a time
_STRIDE = 1 << 12  # one value in so many is looked at to find stretches of equal size


@dataclass(frozen=True)
class _Run:
    """Files of the rows of some parts: distinct values, rows below each (and in all), each row's place among them."""

    folder: Path
    name: str
    lengths: tuple[int, ...]  # rows of each part
    num_values: int

    def path(self, what: str) -> Path:
        return self.folder / f"{self.name}.{what}"

    def read(self, what: str, dtype: np.dtype | type, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Elements ``start`` to ``stop`` of one of the files."""
        count = -1 if stop is None else stop - start
        return np.fromfile(self.path(what), dtype, count, offset=start * np.dtype(dtype).itemsize)


def ranks_over_all(
    parts: Iterable[np.ndarray], folder: Path, dtype: type[np.floating] = np.float32
) -> Iterator[np.ndarray]:
    """For each of ``parts``, in order: (n,) int64, how many values of all parts of all ranks are lower than each.

    A collective call; what it returns is read without the others. Memory is that of a run and of a stretch.

    Args:
        parts: this rank's (n,) finite values of ``dtype``, read once; a rank may have none.
        folder: empty, seen by all ranks; takes up to 20 bytes a row (24 for float64) and is the caller's to delete.
    """
    runs = list(_write_runs(parts, folder))
    sample = np.sort(np.concatenate([np.empty(0, dtype), *_gathered([_sample(run, dtype) for run in runs])]))
    step = max(1, STRETCH_VALUES // _STRIDE)
    bounds = np.unique(sample[step::step])
    cuts = [_cuts(run, bounds, dtype) for run in runs]
    below = sum_over_ranks(sum((below_cuts for _, below_cuts in cuts), np.zeros(len(bounds) + 2, np.int64)))
    everyone = _gathered([(run, at) for run, (at, _) in zip(runs, cuts)])
    wait_for(*(run.path(what) for run, _ in everyone for what in ("values", "below")))
    for stretch in range(rank(), len(bounds) + 1, world_size()):
        lower = _merge([_piece(run, at, stretch, dtype) for run, at in everyone], int(below[stretch]), dtype)
        lower.tofile(_stretch_path(folder, stretch))
    barrier()
    sizes = np.array([np.diff(at) for _, at in everyone]).reshape(len(everyone), len(bounds) + 1)
    return _read_ranks(runs, [run.name for run, _ in everyone], sizes, folder)


def _write_runs(parts: Iterable[np.ndarray], folder: Path) -> Iterator[_Run]:
    pending: list[np.ndarray] = []
    number = 0
    for part in parts:
        pending.append(part)
        if sum(map(len, pending)) >= RUN_ROWS:
            yield _write_run(pending, folder, number)
            pending, number = [], number + 1
    if pending:
        yield _write_run(pending, folder, number)


def _write_run(parts: Sequence[np.ndarray], folder: Path, number: int) -> _Run:
    values = np.concatenate(parts)
    order = np.argsort(values)
    ordered = values[order]
    is_new = _is_new(ordered)
    places = np.empty(len(values), np.uint32)
    places[order] = np.cumsum(is_new) - 1
    first = np.flatnonzero(is_new)
    run = _Run(folder, f"{rank():06d}-{number:06d}", tuple(map(len, parts)), len(first))
    ordered[first].tofile(run.path("values"))
    np.append(first, len(values)).astype(np.uint32).tofile(run.path("below"))
    places.tofile(run.path("places"))
    return run


def _is_new(ordered: np.ndarray) -> np.ndarray:
    """(n,) bool, which of the sorted values differ from the one before."""
    is_new = np.ones(len(ordered), bool)
    is_new[1:] = ordered[1:] != ordered[:-1]
    return is_new


def _gathered(own: list) -> list:
    """All ranks' elements, in order of ranks."""
    return [element for elements in gather_objects(own) for element in elements]


def _sample(run: _Run, dtype: type[np.floating]) -> np.ndarray:
    return run.read("values", dtype)[::_STRIDE]


def _cuts(run: _Run, bounds: np.ndarray, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    """(stretches + 1,) where the stretches begin in a run and the last one ends, and how many rows lie below each."""
    values, below = run.read("values", dtype), run.read("below", np.uint32)
    at = np.concatenate([[0], np.searchsorted(values, bounds), [len(values)]])
    return at, below[at].astype(np.int64)


def _piece(run: _Run, at: np.ndarray, stretch: int, dtype: type[np.floating]) -> tuple[np.ndarray, np.ndarray]:
    """A stretch of a run: distinct values and how often each occurs."""
    start, stop = int(at[stretch]), int(at[stretch + 1])
    return run.read("values", dtype, start, stop), np.diff(run.read("below", np.uint32, start, stop + 1))


def _merge(pieces: Sequence[tuple[np.ndarray, np.ndarray]], below: int, dtype: type[np.floating]) -> np.ndarray:
    """(n,) int64 for the values of all pieces, one after the other: ``below`` and the rows that are lower in here."""
    values = np.concatenate([np.empty(0, dtype), *(values for values, _ in pieces)])
    counts = np.concatenate([np.empty(0, np.int64), *(counts for _, counts in pieces)])
    order = np.argsort(values)
    ordered, counts = values[order], counts[order]
    before = np.cumsum(counts) - counts
    lower = np.empty(len(values), np.int64)
    lower[order] = below + np.maximum.accumulate(np.where(_is_new(ordered), before, 0))
    return lower


def _stretch_path(folder: Path, stretch: int) -> Path:
    return folder / f"{stretch:06d}.lower"


def _read_ranks(runs: Sequence[_Run], names: list[str], sizes: np.ndarray, folder: Path) -> Iterator[np.ndarray]:
    """The ranks of the rows of ``runs``, part by part; ``sizes`` (runs of all, stretches) are those of the pieces."""
    for run in runs:
        number = names.index(run.name)
        starts = sizes[:number].sum(axis=0)
        pieces = [
            np.fromfile(_stretch_path(folder, stretch), np.int64, size, offset=8 * int(start))
            for stretch, (start, size) in enumerate(zip(starts, sizes[number]))
        ]
        ranks = np.concatenate(pieces)[run.read("places", np.uint32)]
        yield from np.split(ranks, np.cumsum(run.lengths)[:-1])
