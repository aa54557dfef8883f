"""What would fail after hours, found in minutes: checks everything a run needs, and writes nothing into it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch.utilities import rank_zero_only

from clipsift_app.doctor.disk import check_disk
from clipsift_app.doctor.evaluation_sets import check_evaluation
from clipsift_app.doctor.files import check_files
from clipsift_app.doctor.finding import Finding, format_findings
from clipsift_app.doctor.launch import check_launch
from clipsift_app.doctor.shards import check_ends, read_some
from clipsift_app.doctor.step import Material, check_step, read_samples
from clipsift_app.doctor.subsets import check_metadata, check_subsets
from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_common.distributed import alone, on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import make_console
from selection.pool.index import PoolIndex

SAMPLE = 8  # shards read unless all are

logger = logging.getLogger("clipsift")


def run_doctor(arguments: list[str]) -> bool:
    """Check a run with the arguments of ``reproduce`` or ``fit``; print the table. True when nothing failed.

    ``--all`` reads every shard and metadata file, ``--shards N`` so many of them.
    """
    parser = argparse.ArgumentParser(prog="clipsift doctor", add_help=False, allow_abbrev=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--shards", type=int, default=SAMPLE)
    own, rest = parser.parse_known_args(arguments)
    if own.shards < 1:
        raise ClipsiftError(f"doctor: --shards is at least 1, got {own.shards}")
    findings = list(_findings(rest, None if own.all else own.shards))
    on_rank_zero(lambda: make_console().print(format_findings(findings)))
    return on_rank_zero(lambda: all(finding.status != "fail" for finding in findings))


def _findings(arguments: list[str], num_shards: int | None) -> Iterator[Finding]:
    try:
        run = parse_run(arguments, needs_eval=False)
    except ClipsiftError as error:
        yield Finding("settings", "fail", str(error), "clipsift reproduce --help lists the settings")
        return
    yield Finding("settings", "ok", f"{run.name}: {len(run.selection.steps)} steps, {run.model['model']}")
    finding, machine = check_launch(run)
    yield finding
    if machine is None and rank_zero_only.rank:  # type: ignore[attr-defined]
        return  # of the processes that did not become a group, one reads
    findings, material = on_rank_zero(lambda: _read_alone(run, num_shards))
    yield from findings
    if machine is not None and material is not None:
        yield from check_step(run, machine, material)


def _read_alone(run: RunSettings, num_shards: int | None) -> tuple[list[Finding], Material | None]:
    with alone(), TemporaryDirectory(prefix="clipsift-doctor-") as scratch:
        return _read(run, num_shards, Path(scratch))


def _read(run: RunSettings, num_shards: int | None, scratch: Path) -> tuple[list[Finding], Material | None]:
    """Everything that looks at files."""
    pool, index, material = run.candidates(), None, None
    found = []
    if pool.shards:
        found.append(check_ends(pool))
        finding, index = read_some(run, pool, num_shards, scratch)
        found.append(finding)
    else:
        found.append(Finding("shards", "fail", f"{run.pool} has metadata only", "training needs the .tar shards"))
    num_pool = len(index) / len(index.shards) * len(pool.shards) if index else 0.0
    if index:
        finding, material = _quietly(run, index)
        found.append(finding)
        found += check_subsets(run, index, num_pool, exact=len(index.shards) == len(pool.shards))
    found += check_files(run, pool, index, num_pool)
    found += check_metadata(run, pool, index, read_all=num_shards is None)
    return [*found, check_evaluation(run), *check_disk(run, pool, num_pool)], material


def _quietly(run: RunSettings, index: PoolIndex) -> tuple[Finding, Material | None]:
    """:func:`read_samples` without what the data module tells of a training to come."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return read_samples(run, index)
    finally:
        logger.setLevel(level)
