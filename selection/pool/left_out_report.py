"""What a pool does not use: logged once by kind, counted, and weighed in samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from clipsift_common.data_report import EXAMPLES_PER_CAUSE, DataReport
from clipsift_common.progress import log_once
from selection.pool.left_out import KINDS, Family, LeftOut, by_kind, describe
from selection.pool.location import Pool
from selection.pool.promises import promised
from selection.pool.remote import size_of
from selection.samples.fields import Fields

Sizes = Callable[[str], Sequence[int]]
_READERS = 16  # files asked at a time


def left_out_report(pool: Pool, family: Family, samples: int, sizes: Sizes, also: Sequence[LeftOut] = ()) -> DataReport:
    """The files of ``pool`` by class, what is left out by kind, and the samples that are lost with it.

    A file holds as many samples as img2dataset's files beside it promise; without these as many as its size suggests,
    by the mean of the files that are used.

    Args:
        family: whose samples count, those of shards or those of metadata.
        samples: in the files that are used, or in some of them.
        sizes: of a kind, gives the bytes of these files, to compare with; called when they are needed.
        also: what is left out beside what the pool says.
    """
    report = DataReport()
    report.files.update(shards=len(pool.shards), metadata=len(pool.metadata), sidecars=pool.num_sidecars)
    report.files.update(left_out=len(pool.left_out))
    for kind, group in by_kind([*pool.left_out, *also]).items():
        lost = [left for left in group if left.loses == family]
        counts = dict(zip(lost, _count(lost, samples, sizes(kind), pool.fields))) if lost else {}
        if lost:
            report.lost[kind] = sum(count for count, _ in counts.values())
            report.samples += report.lost[kind]
        if len(lost) < len(group):
            report.ignored[kind] = len(group) - len(lost)
        report.examples[kind] = [
            {"shard": left.path, "key": "", "detail": counts.get(left, (0, ""))[1]}
            for left in group[:EXAMPLES_PER_CAUSE]
        ]
    return report


def logged_report(
    pool: Pool, family: Family, samples: int, sizes: Sizes, also: Sequence[LeftOut] = ()
) -> dict[str, Any]:
    """:func:`left_out_report` as plain values, what is left out logged by kind, once in a process."""
    report = left_out_report(pool, family, samples, sizes, also)
    if pool.left_out:
        log_once(f"pool {pool.location}: {summarise(report)}")
    for kind, group in by_kind([*pool.left_out, *also]).items():
        text, lost = f"pool {pool.location}: {describe(group, pool.location)}", report.lost.get(kind, 0)
        if lost:
            log_once(f"{text}; {lost:,} samples lost; {KINDS[kind].remedy}", logging.WARNING)
        else:
            log_once(text)
    return report.as_dict()


def summarise(report: DataReport) -> str:
    """``2 shards, 0 metadata, 4 sidecars, 1 left out`` of a report's files."""
    return ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in report.files.items())


def _count(lost: Sequence[LeftOut], samples: int, sizes: Sequence[int], fields: Fields) -> list[tuple[int, str]]:
    """(Samples lost with a file, how one knows) for each."""
    size = sum(sizes) / max(len(sizes), 1)
    count = partial(_count_one, samples=samples / max(len(sizes), 1), size=size, fields=fields)
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(count, lost))


def _count_one(left: LeftOut, samples: float, size: float, fields: Fields) -> tuple[int, str]:
    """``samples`` and ``size``: those of a mean file that is used."""
    if isinstance(left.promise, int):
        return left.promise, f"{left.promise:,} samples by an index"
    count = promised(left.promise, fields) if left.promise else None
    if count is not None:
        return count, f"{count:,} samples by {left.promise.rsplit('/', 1)[-1]}"
    own = left.size if left.size is not None else size_of(left.path)
    count = max(1, round(samples * (own / size if own is not None and size else 1)))
    return count, f"about {count:,} samples, " + ("as in the others" if own is None else "by its size")
