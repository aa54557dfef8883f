"""Which of the pool's files would a run use, and what would it leave out?"""

from __future__ import annotations

from collections.abc import Iterator

from clipsift_app.doctor.finding import Finding
from clipsift_app.settings import RunSettings
from clipsift_common.data_report import DataReport
from selection.pool.index import PoolIndex
from selection.pool.left_out import KINDS, by_kind, describe
from selection.pool.left_out_report import left_out_report, summarise
from selection.pool.location import Pool


def check_files(run: RunSettings, pool: Pool, index: PoolIndex | None, num_pool: float) -> Iterator[Finding]:
    """All files by class, and a line for each kind of what is left out.

    Args:
        index: of the shards that were read, by whose samples and sizes the files left out are weighed.
        num_pool: samples in all shards, about.
    """
    samples, sizes = (index.report.samples, index.sizes) if index else (0, [])
    report = left_out_report(pool, "shards", samples, lambda _: sizes)
    yield Finding("files", "ok", summarise(report))
    share = report.num_lost / max(num_pool + report.num_lost, 1)
    for kind, group in by_kind(pool.left_out).items():
        yield _finding(kind, describe(group, pool.location), report, share, run.max_loss)


def _finding(kind: str, text: str, report: DataReport, share: float, max_loss: float) -> Finding:
    """``share``: of the pool's samples that is lost with all kinds together."""
    remedy = KINDS[kind].remedy
    lost = report.lost.get(kind, 0)
    if not lost:
        return Finding(kind, "warn" if remedy else "ok", text, remedy)
    text += f"; about {lost:,} samples lost"
    if share > max_loss:
        return Finding(kind, "fail", f"{text}, {share:.2%} with all kinds", f"{remedy}, or raise max_loss above it")
    return Finding(kind, "warn", text, remedy)
