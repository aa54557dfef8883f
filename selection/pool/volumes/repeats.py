"""Uids that a pool has several times: found stretch by stretch in the order of uids, over all ranks.

Each volume has its uids in order, so that a stretch is read from all of them at once, whatever their number; memory is
that of one stretch. Every rank takes its share of the stretches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from clipsift_common.data_report import EXAMPLES_PER_CAUSE, DataReport
from clipsift_common.distributed import gather_objects, rank, world_size
from clipsift_common.progress import Progress
from selection.pool.volumes.table import IndexTable, Shards
from selection.pool.volumes.volume import STRIDE, column
from selection.uids import UID_DTYPE, format_uids, sort_uids

STRETCH_UIDS = 1 << 22  # looked at at a time

_LOST, _SHARED = "duplicate_uid", "uid_of_another_pool"


@dataclass
class _Repeats:
    """Places of rows whose uid an earlier one has, and of that one."""

    later: list[np.ndarray] = field(default_factory=lambda: [np.empty(0, np.int64)])
    first: list[np.ndarray] = field(default_factory=lambda: [np.empty(0, np.int64)])


def find_repeats(table: IndexTable, report: DataReport) -> np.ndarray:
    """(k,) int64 places, ascending, of the rows of ``table`` whose uid an earlier one has; on every rank.

    ``report`` counts them. They are lost; but what another of the joined pools has too is one sample.

    A collective call.
    """
    found = _Repeats()
    bounds = _bounds(table)
    mine = range(rank(), len(bounds) + 1, world_size())
    with Progress("compare uids", len(mine), "stretches", brief=True) as progress:
        for stretch in mine:
            _look(table, bounds[stretch - 1 : stretch] if stretch else bounds[:0], bounds[stretch : stretch + 1], found)
            progress.advance(1)
    later, first = np.concatenate(found.later), np.concatenate(found.first)
    order = np.argsort(later)
    shares = gather_objects(_counted(table, later[order], first[order]))
    for cause in (_LOST, _SHARED):
        _tell(table, report, cause, [share[cause] for share in shares])
    return np.sort(np.concatenate(gather_objects(later)))


def _bounds(table: IndexTable) -> np.ndarray:
    """Uids that part all others into stretches of about the same size."""
    marks = sort_uids(np.concatenate([np.empty(0, UID_DTYPE), *(volume.marks for volume in table.volumes)]))
    step = max(1, STRETCH_UIDS // STRIDE)
    return marks[step::step]


def _look(table: IndexTable, low: np.ndarray, high: np.ndarray, found: _Repeats) -> None:
    """Add what is repeated among the uids of one stretch."""
    pieces = [volume.between(low, high) for volume in table.volumes]
    uids = np.concatenate([np.empty(0, UID_DTYPE), *(piece for _, piece in pieces)])
    high_halves = np.sort(uids["f0"])
    tied = high_halves[1:][high_halves[1:] == high_halves[:-1]]
    if not len(tied):
        return
    at = np.flatnonzero(np.isin(uids["f0"], tied))
    ends = np.cumsum([len(piece) for _, piece in pieces])
    places = np.empty(len(at), np.int64)
    for number in np.unique(np.searchsorted(ends, at, "right")).tolist():
        start = ends[number] - len(pieces[number][1])
        mine = (at >= start) & (at < ends[number])
        inside = table.volumes[number].order()[pieces[number][0] + at[mine] - start].astype(np.int64)
        places[mine] = table.places_in(number, inside)
    at, places = at[places >= 0], places[places >= 0]
    order = np.lexsort((places, uids["f1"][at], uids["f0"][at]))
    ordered, places = uids[at[order]], places[order]
    is_first = np.concatenate([[True][: len(ordered)], ordered[1:] != ordered[:-1]])
    group = np.flatnonzero(is_first)[np.cumsum(is_first) - 1] if len(ordered) else np.empty(0, np.int64)
    found.later.append(places[~is_first])
    found.first.append(places[group[~is_first]])


def _counted(table: IndexTable, later: np.ndarray, first: np.ndarray) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    """By cause how many there are, and the first of them."""
    sources = column(table.shards, "source")
    same = sources[table.shards_at(later)] == sources[table.shards_at(first)]
    causes = {_LOST: same, _SHARED: ~same}
    return {
        cause: (
            int(np.count_nonzero(mask)),
            list(zip(later[mask][:EXAMPLES_PER_CAUSE].tolist(), first[mask][:EXAMPLES_PER_CAUSE].tolist())),
        )
        for cause, mask in causes.items()
    }


def _tell(table: IndexTable, report: DataReport, cause: str, shares: list[tuple[int, list[tuple[int, int]]]]) -> None:
    """Count what all ranks have found, with the first of it."""
    total, shards = sum(count for count, _ in shares), Shards(table.shards)
    examples = sorted(pair for _, pairs in shares for pair in pairs)[:EXAMPLES_PER_CAUSE]
    places = np.array(examples, np.int64).reshape(-1, 2)
    names = [[shards[number].name for number in pair] for pair in table.shards_at(places.ravel()).reshape(-1, 2)]
    for uid, (here, there) in zip(format_uids(table.entries_at(places[:, 0])["uid"]), names):
        if cause == _LOST:
            report.lose(cause, here, uid, f"{there} has it")
        else:
            report.ignore(cause, here, uid, f"{there} has it")
    rest = total - len(examples)
    if cause == _LOST and rest:
        report.lost[cause] += rest
    if cause == _SHARED:
        report.ignored.update({cause: rest} if rest else {})
        report.samples -= total
