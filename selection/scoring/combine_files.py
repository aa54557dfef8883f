"""Combinations of columns over score files of any number, on all ranks: nobody ever holds a column of the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsift_common.distributed import gather_objects, on_rank_zero
from selection.kernels.ranks import ranks_over_all
from selection.scoring.column import Column
from selection.scoring.combine import total, usable, value_ranges, weigh
from selection.scoring.files import ScoreFile


@dataclass(frozen=True)
class _Parts:
    """The columns that a combination is made of, of this rank's files; ``scratch`` is empty and seen by all ranks."""

    of: Sequence[Column]
    files: Sequence[ScoreFile]
    scratch: Path

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        for file in self.files:
            yield [file.column(column.name) for column in self.of]


def add_combination(column: Column, files: Sequence[ScoreFile], scratch: Path) -> None:
    """Give this rank's ``files`` the column that ``column``, a combination, is over the rows left of all files.

    A collective call, for the same values as ``COMBINATIONS`` give of whole columns. ``scratch`` is an empty folder
    that all ranks see; the new columns lie there (8 bytes a row), and beside them what was needed on the way (20 bytes
    a row and column).
    """
    for number, part in enumerate(column.of):
        if part.of:
            add_combination(part, files, _subfolder(scratch, str(number)))
    parts = _Parts(column.of, files, _subfolder(scratch, "work"))
    values = _OVER_ALL[column.score](parts, **column.options)
    for file, scores in zip(files, values):
        file.add_column(column.name, scores, scratch)


def _subfolder(folder: Path, name: str) -> Path:
    on_rank_zero((folder / name).mkdir)
    return folder / name


def _rank_sum(parts: _Parts) -> Iterator[np.ndarray]:
    ranks = []
    for number, column in enumerate(parts.of):
        values = (columns[number][usable(columns)] for columns in parts)
        folder = _subfolder(parts.scratch, str(number))
        ranks.append(ranks_over_all(values, folder, np.float64 if column.of else np.float32))
    return (total(usable(columns), own) for columns, *own in zip(parts, *ranks))


def _weighted_sum(parts: _Parts, weights: list[float] | None = None, normalise: bool = True) -> Iterator[np.ndarray]:
    ranges = None
    if normalise:
        nothing = np.tile([np.inf, -np.inf], (len(parts.of), 1))
        own = [nothing, *map(value_ranges, parts)]
        ranges = _widest(gather_objects(_widest(own)))
    return (weigh(columns, weights, ranges) for columns in parts)


def _widest(ranges: Sequence[np.ndarray]) -> np.ndarray:
    """(columns, 2): the lowest of the first ends and the highest of the second."""
    return np.stack([np.min(ranges, axis=0)[:, 0], np.max(ranges, axis=0)[:, 1]], axis=1)


_OVER_ALL: dict[str, Callable[..., Iterator[np.ndarray]]] = {"rank_sum": _rank_sum, "weighted_sum": _weighted_sum}
