"""What a pool does not use: logged once by kind, counted, and weighed in samples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

from clipsift_common.data_report import EXAMPLES_PER_CAUSE, DataReport
from selection.pool.left_out import Family, LeftOut, by_kind, describe
from selection.pool.location import Pool
from selection.pool.promises import promised
from selection.pool.remote import size_of

logger = logging.getLogger("clipsift")

_READERS = 16  # files asked at a time


def left_out_report(pool: Pool, family: Family, samples: int, sizes: Callable[[], Sequence[int]]) -> DataReport:
    """The files of ``pool`` by class, what is left out by kind, and the samples that are lost with it.

    A file holds as many samples as img2dataset's files beside it promise; without these as many as its size suggests,
    by the mean of the files that are used.

    Args:
        family: whose samples count, those of shards or those of metadata.
        samples: in all files that are used.
        sizes: gives their sizes in bytes; called when they are needed.
    """
    report = DataReport()
    report.files.update(shard=len(pool.shards), metadata=len(pool.metadata), sidecar=pool.num_sidecars)
    report.files.update(left_out=len(pool.left_out))
    _say(f"pool {pool.location}: {', '.join(f'{number:,} {name}' for name, number in report.files.items())} files")
    lost = [left for left in pool.left_out if left.loses == family]
    counts = dict(zip(lost, _count(lost, samples, sizes()))) if lost else {}
    for kind, group in by_kind(pool.left_out).items():
        found = [counts[left] for left in group if left in counts]
        number = sum(count for count, _ in found)
        report.samples += number
        report.lost.update({kind: number} if found else {})
        report.ignored.update({kind: len(group) - len(found)} if len(found) < len(group) else {})
        report.examples[kind] = [
            {"shard": left.path, "key": "", "detail": counts.get(left, (0, ""))[1]}
            for left in group[:EXAMPLES_PER_CAUSE]
        ]
        _say(f"pool {pool.location}: {describe(group)}" + (f"; {number:,} samples lost" if number else ""))
    return report


@cache
def _say(line: str) -> None:
    """Log a line once in a process, though several stages survey the pool."""
    logger.info(line)


def _count(lost: Sequence[LeftOut], samples: int, sizes: Sequence[int]) -> Iterable[tuple[int, str]]:
    """(Samples lost with a file, how one knows) for each."""
    size = sum(sizes) / max(len(sizes), 1)
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(partial(_count_one, samples=samples / max(len(sizes), 1), size=size), lost))


def _count_one(left: LeftOut, samples: float, size: float) -> tuple[int, str]:
    """``samples`` and ``size``: those of a mean file that is used."""
    count = promised(left.promise) if left.promise else None
    if count is not None:
        return count, f"{count:,} samples by {left.promise.rsplit('/', 1)[-1]}"
    own = left.size if left.size is not None else size_of(left.path)
    count = max(1, round(samples * (own / size if own is not None and size else 1)))
    return count, f"about {count:,} samples, " + ("as in the others" if own is None else "by its size")
