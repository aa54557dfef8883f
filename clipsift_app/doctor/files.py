"""Which of the pool's files would a run use, and what would it leave out?"""

from __future__ import annotations

from collections.abc import Iterator

from clipsift_app.doctor.finding import Finding, evenly
from clipsift_app.settings import RunSettings
from clipsift_common.data_report import DataReport
from clipsift_common.errors import ClipsiftError
from selection.features.files import FeatureFile
from selection.features.sizes import metadata_sizes
from selection.pool.coverage import Coverage
from selection.pool.index import PoolIndex
from selection.pool.left_out import KINDS, LeftOut, by_kind, describe
from selection.pool.left_out_report import left_out_report, summarise
from selection.pool.location import Pool

_METADATA_FILES = 8  # looked at


def check_files(run: RunSettings, pool: Pool, index: PoolIndex | None, num_pool: float) -> Iterator[Finding]:
    """All files by class, and a line for each kind of what is left out.

    Args:
        index: of the shards that were read, by whose samples and sizes the files left out are weighed.
        num_pool: samples in all shards, about.
    """
    samples, sizes = (index.report.samples, index.sizes.tolist()) if index else (0, [])
    report = left_out_report(pool, "shards", samples, lambda _: sizes)
    yield Finding("files", "ok", summarise(report))
    lost, share = report.lost, report.num_lost / max(num_pool + report.num_lost, 1)
    also: list[LeftOut] = []
    if run.selection.features and (found := _of_metadata(run.selection.features, pool)):
        rows, also = found
        lost, share = lost + rows.lost, max(share, rows.loss)
    for kind, group in by_kind([*pool.left_out, *also]).items():
        yield _finding(kind, describe(group, pool.location), lost[kind], share, run.max_loss)


def _of_metadata(features: str, pool: Pool) -> tuple[DataReport, list[LeftOut]] | None:
    """What is lost with metadata that is left out or lacking, among about as many rows as there are, and the shards
    without metadata; None when nothing is."""
    files = [
        FeatureFile(file.url, features) for file in evenly(pool.metadata, min(len(pool.metadata), _METADATA_FILES))
    ]
    try:
        rows = sum(file.num_rows() for file in files)
    except ClipsiftError:  # which is a finding of its own
        return None
    coverage = Coverage(pool, rows / max(len(files), 1))
    lacking = coverage.lacking()
    if not lacking and not any(left.loses == "metadata" for left in pool.left_out):
        return None
    report = left_out_report(pool, "metadata", rows, metadata_sizes(files, coverage), lacking)
    report.samples += round(rows / max(len(files), 1) * len(pool.metadata))
    return report, lacking


def _finding(kind: str, text: str, lost: int, share: float, max_loss: float) -> Finding:
    """``lost``: samples, about; ``share``: of the pool's samples that is lost with all kinds together."""
    remedy = KINDS[kind].remedy
    if not lost:
        return Finding(kind, "warn" if remedy else "ok", text, remedy)
    text += f"; about {lost:,} samples lost"
    if share > max_loss:
        return Finding(kind, "fail", f"{text}, {share:.2%} with all kinds", f"{remedy}, or raise max_loss above it")
    return Finding(kind, "warn", text, remedy)
