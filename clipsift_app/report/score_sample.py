"""The score columns of a run, or of a fair sample of it when the pool is large."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError, first_line
from selection.subset import Subset
from selection.uids import UID_DTYPE, parse_uids

SAMPLE_ROWS = 1_000_000  # enough for any histogram; 100 M rows would not fit


@dataclass(frozen=True)
class ScoreSample:
    """Rows of the score files.

    Attributes:
        uids: (n,) in file order.
        columns: name -> (n,) float32, higher is better.
        kept: (n,) bool, whether the row's sample is in the subset; None when there is no subset yet.
        num_rows: rows in the files; more than n when they were sampled.
    """

    uids: np.ndarray
    columns: dict[str, np.ndarray]
    kept: np.ndarray | None
    num_rows: int

    @property
    def sampled(self) -> bool:
        return len(self.uids) < self.num_rows


def read_scores(folder: Path, subset: Subset | None, limit: int = SAMPLE_ROWS) -> ScoreSample | None:
    """At most ``limit`` rows of the score files under ``folder``; None when there are none.

    Sampling takes one row at random from each of ``limit`` equal stretches of the pool, always the same ones. One
    file is in memory at a time.

    Raises:
        ClipsiftError: for a damaged file, or one without the first file's columns.
    """
    files = sorted(folder.glob("*.parquet"))
    sizes = [_num_rows(file) for file in files]
    total = sum(sizes)
    if not total:
        return None
    names = [name for name in pq.read_schema(files[0]).names if name != "uid"]
    rows = _sample_rows(total, limit)
    uids, columns, start = [], [], 0
    for file, size in zip(files, sizes):
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + size)] - start
        table = _read(file, ["uid", *names]).take(pa.array(here))
        uids.append(parse_uids(table["uid"].to_pylist()))
        columns.append([table[name].to_numpy().astype(np.float32) for name in names])
        start += size
    joined = np.concatenate(uids) if uids else np.empty(0, UID_DTYPE)
    return ScoreSample(
        uids=joined,
        columns={name: np.concatenate([part[i] for part in columns]) for i, name in enumerate(names)},
        kept=None if subset is None else subset.multiplicity(joined) > 0,
        num_rows=total,
    )


def _sample_rows(total: int, limit: int) -> np.ndarray:
    if total <= limit:
        return np.arange(total)
    offsets = np.random.default_rng(0).random(limit)
    return ((np.arange(limit) + offsets) * (total / limit)).astype(np.int64)


def _num_rows(file: Path) -> int:
    try:
        return pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _read(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ClipsiftError:
    return ClipsiftError(f"{file}: no score file ({first_line(error)}); delete it to have it made again")
