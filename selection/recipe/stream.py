"""A recipe over score files of any number, on all ranks: each keeps in mind which rows of its own files are left.

:func:`selection.recipe.apply.apply_recipe` says what is kept; this does the same without ever holding all
scores or uids.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.distributed import barrier, gather_objects, on_rank_zero, rank, sum_over_ranks, world_size
from selection.recipe.apply import FeatureSource, apply_recipe, drops_none
from selection.recipe.cut import Cut, find_cut
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.step import Step
from selection.scoring.files import ScoreFile
from selection.subset import Subset
from selection.subset_files import Runs, combine
from selection.uids import parse_uids

logger = logging.getLogger("clipsift")


class _Column:
    """The rows left of a score file, by one score."""

    def __init__(self, file: ScoreFile, name: str) -> None:
        self.file, self.name = file, name
        self.uids, self.positions = file.uids, file.positions

    def scores(self) -> np.ndarray:
        return self.file.column(self.name)


def choose(
    paths: Sequence[Path], recipe: ParsedRecipe, out: Path, features: FeatureSource | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write the subset file ``out`` that ``recipe`` makes of the score files ``paths``; a collective call.

    Files are split over ranks, and the result does not depend on how. Memory is a bit per row, one score file, and a
    bounded number of uids; set methods that work by file get their rows from ``features``. From a step on that wants
    many samples in memory (a set method of the other kind; any combination of scores makes it the first step) those
    that are left are held, and what follows is :func:`apply_recipe` with ``features`` and ``seed``. Choosing starts
    anew after a restart, but for the units that a method by file has done.

    Returns:
        What :func:`apply_recipe` tells about its steps and operations, with ``num_kept`` and ``num_unique``, and
        each step's ``last_tie``: of the samples that score ``threshold``, the last uid kept (None: all were kept).

    Raises:
        ClipsiftError: for a damaged score file, a step that keeps nothing, a subset file that cannot be read.
    """
    mine = [ScoreFile(number, paths[number]) for number in range(rank(), len(paths), world_size())]
    if recipe.within:
        within = Subset.load(recipe.within)
        for file in mine:
            file.keep(within.multiplicity(file.uids()) > 0)
    num_pool = _num_left(mine)
    streamed = recipe.steps[: recipe.num_streamed]
    steps = []
    for step in streamed:
        if step.method:
            assert features is not None
            steps.append(_take_method(step, mine, num_pool, features, seed))
        else:
            steps.append(_take_step(step, mine, num_pool))
    if len(streamed) == len(recipe.steps):
        about: dict[str, Any] = {"num_pool": num_pool, "steps": steps} | _write(mine, recipe, out)
        if features:
            features.close()
        _warn_of_repeats(about)
        return about
    rest = replace(recipe, steps=recipe.steps[len(streamed) :], within=None)
    names = [column.name for column in rest.columns]
    rows, uids, columns = _gather(mine, names)
    subset, about = apply_recipe(rest, uids, columns, features, seed, rows, num_pool)
    if features:
        features.close()
    on_rank_zero(lambda: subset.save(out))
    about["steps"] = steps + about["steps"]
    return about | {"num_kept": len(subset), "num_unique": len(subset.unique)}


def _warn_of_repeats(about: dict[str, Any]) -> None:
    if about["num_kept"] > about["num_unique"]:
        logger.warning(
            "select: %s kept pairs have the uid of another one; training will see those uids that much more often",
            f"{about['num_kept'] - about['num_unique']:,}",
        )


def _gather(mine: list[ScoreFile], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """On every rank, of all samples that are left: rows of the pool, ascending, uids, and scores by name."""
    own = [
        (file.number, file.num_rows, [np.flatnonzero(file.left), file.uids(), *map(file.column, names)])
        for file in mine
    ]
    parts = [[np.empty(0, np.int64), parse_uids([]), *(np.empty(0, np.float32) for _ in names)]]
    start = 0
    for _, num_rows, (rows, *others) in sorted(chain(*gather_objects(own)), key=itemgetter(0)):
        parts.append([start + rows, *others])
        start += num_rows
    rows, uids, *scores = map(np.concatenate, zip(*parts))
    return rows, uids, dict(zip(names, scores))


def _take_step(step: Step, mine: list[ScoreFile], num_pool: int) -> dict[str, Any]:
    num_before = _num_left(mine)
    cut = _cut(step, [_Column(file, step.name) for file in mine], num_pool)
    lowest = np.float32(np.inf)
    for file in mine:
        scores, kept = cut.mask(_Column(file, step.name))
        lowest = scores[kept].min(initial=lowest)
        file.keep(kept)
    num_kept = _num_left(mine)
    threshold = float(min(gather_objects(lowest))) if num_kept else None
    logger.info("select: %s keeps %s of %s", step.name, f"{num_kept:,}", f"{num_pool:,}")
    record = {"name": step.name, "score": step.score, "keep": step.keep or step.count, "num_kept": num_kept}
    record |= {"drops_none": drops_none(step, num_before, num_kept)}
    return record | {"threshold": threshold, "last_tie": cut.last_uid, "options": step.options}


def _take_method(
    step: Step, mine: list[ScoreFile], num_pool: int, features: FeatureSource, seed: int
) -> dict[str, Any]:
    num_before = _num_left(mine)
    kept = features.kept_rows(step, {file.number: file.left for file in mine}, num_pool, seed)
    for file in mine:
        chosen = np.zeros(file.num_rows, bool)
        chosen[kept[file.number]] = True
        file.keep(chosen[file.left])
    num_kept = _num_left(mine)
    logger.info("select: %s keeps %s of %s", step.name, f"{num_kept:,}", f"{num_pool:,}")
    record = {"name": step.name, "score": step.method, "keep": step.keep or step.count, "num_kept": num_kept}
    record |= {"drops_none": drops_none(step, num_before, num_kept)}
    return record | {"threshold": None, "options": step.options}


def _cut(step: Step, columns: list[_Column], num_pool: int) -> Cut:
    if step.threshold is not None:
        return Cut(np.float32(step.threshold))
    if step.ties == "datacomp":
        return find_cut(columns, step.size(num_pool) + 1, ties=True)
    return find_cut(columns, step.size(num_pool))


def _num_left(mine: list[ScoreFile]) -> int:
    return int(sum_over_ranks(np.array([sum(file.num_left for file in mine)])).item())


def _write(mine: list[ScoreFile], recipe: ParsedRecipe, out: Path) -> dict[str, Any]:
    """Every rank leaves the uids it keeps as sorted runs; rank 0 merges them and applies the set operations."""
    scratch = out.with_name(f".{out.name}.runs")
    on_rank_zero(lambda: _make_empty(scratch))
    runs = Runs(scratch, str(rank()))
    for file in mine:
        runs.add(file.uids())
    runs.flush()
    barrier()
    return on_rank_zero(lambda: _merge(scratch, recipe, out))


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _merge(scratch: Path, recipe: ParsedRecipe, out: Path) -> dict[str, Any]:
    sets = (("union", recipe.union), ("intersection", recipe.intersect), ("difference", recipe.subtract))
    files = [(name, path) for name, paths in sets for path in paths]
    others = [(name, Subset.load(path)) for name, path in files]
    combined = combine(out, [Subset.load(run).uids for run in sorted(scratch.iterdir())], others)
    shutil.rmtree(scratch)
    operations = [
        {"operation": name, "file": path, "size": len(other), "num_kept": num_kept}
        for (name, path), (_, other), num_kept in zip(files, others, combined.after)
    ]
    return {"operations": operations, "num_kept": combined.num_kept, "num_unique": combined.num_unique}
