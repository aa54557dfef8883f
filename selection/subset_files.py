"""Subset files of any size: sorted runs of uids on disk, merged with other subsets stretch by stretch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from clipsift_common.files import atomic_path
from clipsift_common.progress import Progress
from selection.subset import Subset
from selection.uids import UID_DTYPE, search_uids, sort_uids

RUN_UIDS = 1 << 22  # sorted in memory at a time: 64 MiB, and as much again four times while sorting
OPEN_RUNS = 256  # merged at a time: each is an open file
STRETCH_UIDS = 1 << 22  # merged in memory at a time
_STRIDE = 1 << 12  # one uid in so many is looked at to find stretches of equal size


class Runs:
    """Takes uids in any order and number and leaves them in ``folder`` as sorted files of bounded size."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self._pending: list[np.ndarray] = []
        self._num_pending = self._num_runs = 0

    def add(self, uids: np.ndarray) -> None:
        """Take ``uids``; they are on disk after the next :meth:`flush`."""
        self._pending.append(uids)
        self._num_pending += len(uids)
        if self._num_pending >= RUN_UIDS:
            self.flush()

    def flush(self) -> None:
        """Write what is still in memory."""
        if self._num_pending:
            Subset(np.concatenate(self._pending)).save(self.folder / f"{self.prefix}-{self._num_runs:06d}.npy")
            self._pending, self._num_pending, self._num_runs = [], 0, self._num_runs + 1


def few_runs(folder: Path) -> list[Path]:
    """The runs in ``folder``, merged into larger ones until there are at most :data:`OPEN_RUNS`."""
    paths, number = sorted(folder.iterdir()), 0
    while len(paths) > OPEN_RUNS:
        some, paths = paths[:OPEN_RUNS], paths[OPEN_RUNS:]
        paths.append(folder / f"merged-{number:06d}.npy")
        combine(paths[-1], [Subset.load(run).uids for run in some])
        for run in some:
            run.unlink()
        number += 1
    return paths


@dataclass
class Combined:
    """What :func:`combine` wrote: uids in all, distinct ones, and how many there were after each operation."""

    num_kept: int
    num_unique: int
    after: list[int]


def combine(path: str | Path, parts: Sequence[np.ndarray], operations: Sequence[tuple[str, Subset]] = ()) -> Combined:
    """Write the subset file of all uids in ``parts`` after ``operations``; the arrays may be memory mapped.

    Args:
        parts: sorted arrays of uids; a uid that is in several is kept as often as it occurs.
        operations: methods of :class:`Subset` by name (``union``, ``intersection``, ``difference``) with the subset
            to apply each to, in order. As there, every uid is left once.

    Memory is that of one stretch (:data:`STRETCH_UIDS`), whatever the sizes.
    """
    result = Combined(0, 0, [0] * len(operations))
    arrays = [*parts, *(other.uids for _, other in operations)]
    progress = Progress("join the subset", sum(map(len, arrays)), "uids", brief=True)
    with atomic_path(path) as temporary, open(temporary, "wb") as handle, progress:
        _write_header(handle, 0)
        for pieces in stretches(arrays):
            kept = Subset(np.concatenate([np.empty(0, UID_DTYPE), *pieces[: len(parts)]]))
            for number, ((operation, _), piece) in enumerate(zip(operations, pieces[len(parts) :])):
                kept = getattr(kept, operation)(Subset.of_sorted(piece))
                result.after[number] += len(kept)
            handle.write(np.ascontiguousarray(kept.uids).data)
            result.num_kept += len(kept)
            result.num_unique += len(kept.unique)
            progress.advance(sum(map(len, pieces)))
        handle.seek(0)
        _write_header(handle, result.num_kept)
    return result


def _write_header(handle: IO[bytes], count: int) -> None:
    """The header that ``np.save`` writes; as long for any count, as numpy leaves room to grow."""
    header = {"descr": UID_DTYPE.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(handle, header)


def stretches(arrays: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Cut sorted arrays at common uids into pieces of about :data:`STRETCH_UIDS` together, in order."""
    sample = sort_uids(np.concatenate([np.empty(0, UID_DTYPE), *(array[::_STRIDE] for array in arrays)]))
    step = STRETCH_UIDS // _STRIDE
    bounds = sample[step::step]
    cuts = [np.r_[0, search_uids(array, bounds)[0], len(array)] for array in arrays]
    for stretch in range(len(bounds) + 1):
        yield [array[at[stretch] : at[stretch + 1]] for array, at in zip(arrays, cuts)]
