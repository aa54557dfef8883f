"""The rows of a subset in an index: found once, volume by volume over all ranks, and mapped by all processes since."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.distributed import barrier, on_rank_zero, rank, split_over_ranks, world_size
from clipsift_common.files import (
    Contents,
    array_fingerprint,
    atomic_path,
    file_fingerprint,
    read_json,
    read_sealed,
    wait_for,
    write_sealed,
)
from clipsift_common.progress import Progress
from selection.pool.volumes.table import IndexTable
from selection.subset import Subset
from selection.uids import search_uids

UIDS_PRINTED = 1 << 20  # rows whose uids have a fingerprint together
_PIECE = 1 << 16  # uids compared at a time: as many as caches hold
_FORMAT = 1
_NOTE, _ROWS = "kept.json", "rows.npy"


@dataclass(frozen=True)
class KeptRows:
    """The rows of a subset.

    Attributes:
        rows: (m,) in pool order, repeated by multiplicity; mapped.
        num_wanted: samples of the subset, repeats counted.
        num_unique: different rows, where they were counted.
        uids: a fingerprint of the uids of each :data:`UIDS_PRINTED` of the rows.
    """

    rows: np.ndarray
    num_wanted: int
    num_unique: int
    uids: list[str] | None = None


def row_dtype(num_rows: int) -> np.dtype:
    """The smallest one that holds the rows of an index."""
    return np.dtype(np.uint32 if num_rows < 2**32 else np.int64)


def rows_in(table: IndexTable, volume: int, subset: Subset) -> np.ndarray:
    """(m,) int64 rows of the subset's samples that lie in a volume, ascending, repeated by multiplicity.

    Both have their uids in order, so that a piece of one is compared with a piece of the other.
    """
    uids, order = table.volumes[volume].uids(), table.volumes[volume].order()
    found = [np.empty(0, np.int64)]
    for start in range(0, len(uids), _PIECE):
        piece = np.array(uids[start : start + _PIECE])
        first, last = search_uids(subset.uids, piece[[0, -1]])
        left, right = search_uids(np.array(subset.uids[first[0] : last[1]]), piece)
        hits = np.flatnonzero(right > left)
        found.append(np.repeat(order[start : start + _PIECE][hits].astype(np.int64), (right - left)[hits]))
    rows = table.rows_at(table.places_in(volume, np.concatenate(found)))
    return np.sort(rows[rows >= 0])


def keep_rows(table: IndexTable, subset: Subset, folder: Path, contents: Contents) -> None:
    """Write the rows of ``subset`` into ``folder``, for :func:`open_kept`; a collective call.

    Memory is that of one volume's rows. ``contents`` is told what was written.
    """
    scratch = folder.with_name(f".{folder.name}.parts")
    on_rank_zero(lambda: _make_empty(scratch))
    mine = range(rank(), len(table.volumes), world_size())
    with Progress("find the subset", len(mine), "volumes", brief=True) as progress:
        for volume in mine:
            with atomic_path(scratch / f"{volume}.npy") as temporary, open(temporary, "wb") as out:
                np.save(out, rows_in(table, volume, subset), allow_pickle=False)
            progress.advance(1)
    barrier()
    num_unique = on_rank_zero(lambda: _join(table, scratch, folder / _ROWS))
    wait_for(folder / _ROWS)
    rows = np.load(folder / _ROWS, mmap_mode="r", allow_pickle=False)
    starts = range(0, len(rows), UIDS_PRINTED)
    uids = split_over_ranks(starts, lambda mine: [_print(table, rows, start) for start in mine])
    about = {"format": _FORMAT, "wanted": len(subset), "unique": num_unique, "uids": uids}
    on_rank_zero(lambda: _finish(folder, about, contents))


def _finish(folder: Path, about: dict[str, Any], contents: Contents) -> None:
    content = file_fingerprint(folder / _ROWS)
    contents.written(str(folder), {_ROWS: content})
    write_sealed(folder / _NOTE, about | {"rows": content})


def _print(table: IndexTable, rows: np.ndarray, start: int) -> str:
    return array_fingerprint(table.uids_of(rows[start : start + UIDS_PRINTED].astype(np.int64)))


def is_kept(folder: Path, contents: Contents) -> bool:
    """Whether :func:`keep_rows` wrote what lies in ``folder``; ``contents`` knows a file that was looked at before."""
    about, path = read_sealed(folder / _NOTE), (folder / _ROWS).resolve()
    if about is None or about["format"] != _FORMAT or not path.is_file():
        return False
    return contents.each(str(folder), [path]) == {_ROWS: about["rows"]}


def open_kept(folder: Path) -> KeptRows:
    """What :func:`keep_rows` wrote."""
    wait_for(folder / _NOTE, folder / _ROWS)
    about = read_json(folder / _NOTE)
    rows = np.load(folder / _ROWS, mmap_mode="r", allow_pickle=False)
    return KeptRows(rows, about["wanted"], about["unique"], about["uids"])


def _make_empty(scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)


def _join(table: IndexTable, scratch: Path, path: Path) -> int:
    """Put the volumes' rows into pool order, in one file; how many different ones there are."""
    parts = [np.load(scratch / f"{volume}.npy", mmap_mode="r") for volume in range(len(table.volumes))]
    total, num_unique = sum(map(len, parts)), 0
    dtype = row_dtype(int(table.starts[-1]))
    with atomic_path(path) as temporary, open(temporary, "wb") as out:
        header: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": (total,)}
        np.lib.format.write_array_header_1_0(out, header)
        for volume, first, last in _stretches(table):
            part = parts[volume]
            rows = np.array(part[slice(*np.searchsorted(part, [table.starts[first], table.starts[last]]))])
            num_unique += int(np.count_nonzero(np.diff(rows))) + bool(len(rows))
            out.write(rows.astype(dtype).tobytes())
    shutil.rmtree(scratch)
    return num_unique


def _stretches(table: IndexTable) -> Sequence[tuple[int, int, int]]:
    """Neighbouring shards of one volume, in pool order: the volume, the first of them, and the one behind the last."""
    volumes = table.shard_volumes
    cuts = np.flatnonzero(np.diff(volumes)) + 1
    firsts, lasts = [0, *cuts.tolist()], [*cuts.tolist(), len(volumes)]
    return [(int(volumes[first]), first, last) for first, last in zip(firsts, lasts)]
