"""Are the shards whole? All are looked at from their ends, some are read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec

from clipsift_app.doctor.finding import Finding, evenly, shorten_list
from clipsift_app.settings import RunSettings
from clipsift_common.errors import ClipsiftError, first_line
from selection.pool.index import PoolIndex
from selection.pool.location import Pool, Shard
from selection.pool.packed.shards import is_packed

_END = 1024  # a tar ends in at least two blocks of zeros; a truncated one ends in the middle of a picture
_OPEN_FILES = 16


def check_ends(pool: Pool) -> Finding:
    """Every shard opens and ends as a tar does. One small read per shard."""
    with ThreadPoolExecutor(_OPEN_FILES) as threads:
        problems = [problem for problem in threads.map(_bad_end, pool.shards) if problem]
    if problems:
        remedy = "download or write these shards again, or move them out of the pool"
        return Finding("shards", "fail", shorten_list(problems), remedy)
    packed = sum(is_packed(shard.url) for shard in pool.shards)
    unseen = f"; {packed:,} are packed, of which only unpacking shows it" if packed else ""
    return Finding("shards", "ok", f"all {len(pool.shards):,} open, none is truncated{unseen}")


def _bad_end(shard: Shard) -> str | None:
    try:
        fs, path = fsspec.core.url_to_fs(shard.url)
        size = int(fs.info(path)["size"])
        end = fs.cat_file(path, start=max(0, size - _END), end=size) if size else b""
    except OSError as error:
        return f"{shard.url} cannot be read ({first_line(error)})"
    if is_packed(shard.url):  # seen only when it is unpacked
        return None if size else f"{shard.url} is empty"
    return None if size >= _END and not any(end) else f"{shard.url} is truncated"


def read_some(run: RunSettings, pool: Pool, num_shards: int | None, folder: Path) -> tuple[Finding, PoolIndex | None]:
    """Index ``num_shards`` evenly spaced shards (None: all) under ``folder``, and count what is damaged in them.

    Returns the finding and the index of those shards, None when there is nothing in them.
    """
    total = len(pool.shards)
    count = total if num_shards is None else min(total, num_shards)
    try:
        index = PoolIndex.build(pool.part(evenly(pool.shards, count)), folder, run.data.get("workers", 0))
    except ClipsiftError as error:
        return Finding("samples", "fail", str(error), "mend the shards, or look at their names and members"), None
    report, read = index.report, f"{count:,} of {total:,} shards read"
    text = f"{len(index):,} whole samples, {read}"
    if report.noted:
        text += "; used: " + ", ".join(f"{number:,} {cause}" for cause, number in report.noted.most_common())
    if not report.num_lost:
        return Finding("samples", "ok", text), index
    causes = ", ".join(f"{cause} {number:,}" for cause, number in report.lost.most_common())
    text += f"; {report.loss:.2%} lost ({causes})"
    if report.loss > run.max_loss:
        return Finding("samples", "fail", text, f"mend the shards, or raise max_loss above {report.loss:.4f}"), index
    return Finding("samples", "warn", text, "nothing to do if that was to be expected: they are skipped"), index
