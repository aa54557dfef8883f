"""A recipe over score files of any number, on all ranks: each keeps in mind which rows of its own files are left.

:func:`selection.recipe.apply.apply_recipe` says what is kept; this does the same without ever holding all
scores or uids.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.distributed import barrier, gather_objects, on_rank_zero, rank, sum_over_ranks, world_size
from selection.kernels.cut import Cut, find_cut
from selection.recipe.apply import FeatureSource, apply_recipe, record_of
from selection.recipe.draw import draw
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.step import Step
from selection.scoring.combine_files import add_combination
from selection.scoring.files import ScoreFile
from selection.subset import Subset
from selection.subset_files import Runs, combine, few_runs
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
    bounded number of uids and scores; what else is needed lies on disk beside ``out`` meanwhile. Set methods that work
    by file get their rows from ``features``. From a step on that wants many samples in memory (a set method of another
    kind) those that are left are held, and what follows is :func:`apply_recipe` with ``features`` and ``seed``.
    Choosing starts anew after a restart, but for the units that a method by file has done.

    Returns:
        What :func:`apply_recipe` tells about its steps and operations, with ``num_kept`` and ``num_unique``, and
        each score step's ``last_tie``: of the samples that score ``threshold``, the last uid kept (None: all were).

    Raises:
        ClipsiftError: for a damaged score file, a step that keeps nothing, a subset file that cannot be read.
    """
    mine = [ScoreFile(number, paths[number]) for number in range(rank(), len(paths), world_size())]
    if recipe.within:
        within = Subset.load(recipe.within)
        for file in mine:
            file.keep(within.multiplicity(file.uids()) > 0)
    num_pool = _num_left(mine)
    scratch = out.with_name(f".{out.name}.scratch")
    on_rank_zero(lambda: _make_empty(scratch))
    for number, column in enumerate(recipe.combinations):
        add_combination(column, mine, _subfolder(scratch, str(number)))
    streamed = recipe.steps[: recipe.num_streamed]
    last = streamed[-1] if streamed and streamed[-1].by_part else None
    steps = []
    for step in streamed[: len(streamed) - (last is not None)]:
        if step.method:
            assert features is not None
            steps.append(_take_method(step, mine, num_pool, features, seed))
        else:
            steps.append(_take_step(step, mine, num_pool))
    if len(streamed) < len(recipe.steps):
        about = _hold(mine, recipe, out, features, seed, num_pool)
    elif last:
        num_before = _num_left(mine)
        about = _write(draw(last, mine, num_pool, seed, _subfolder(scratch, "draw")), scratch, recipe, out)
        about["steps"] = [record_of(last, num_before, about["num_kept"], None)]
    else:
        about = {"steps": []} | _write((file.uids() for file in mine), scratch, recipe, out)
        _warn_of_repeats(about)
    if features:
        features.close()
    about |= {"num_pool": num_pool, "steps": steps + about["steps"]}
    on_rank_zero(lambda: shutil.rmtree(scratch))
    return about


def _hold(
    mine: list[ScoreFile], recipe: ParsedRecipe, out: Path, features: FeatureSource | None, seed: int, num_pool: int
) -> dict[str, Any]:
    """Take the steps from the first one on that looks at all samples together."""
    rest = replace(recipe, steps=recipe.steps[recipe.num_streamed :], within=None)
    names = sorted({step.column.name for step in rest.steps if step.column})
    rows, uids, columns = _gather(mine, names)
    subset, about = apply_recipe(rest, uids, columns, features, seed, rows, num_pool)
    on_rank_zero(lambda: subset.save(out))
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
    return record_of(step, num_before, num_kept, threshold) | {"last_tie": cut.last_uid}


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
    return record_of(step, num_before, num_kept, None)


def _cut(step: Step, columns: list[_Column], num_pool: int) -> Cut:
    dtype = np.float64 if step.of else np.float32
    if step.threshold is not None:
        return Cut(dtype(step.threshold))
    if step.ties == "datacomp":
        return find_cut(columns, step.size(num_pool) + 1, ties=True, dtype=dtype)
    return find_cut(columns, step.size(num_pool), dtype=dtype)


def _num_left(mine: list[ScoreFile]) -> int:
    return int(sum_over_ranks(np.array([sum(file.num_left for file in mine)])).item())


def _write(uids: Iterable[np.ndarray], scratch: Path, recipe: ParsedRecipe, out: Path) -> dict[str, Any]:
    """Every rank leaves the uids it keeps as sorted runs; rank 0 merges them and applies the set operations."""
    folder = _subfolder(scratch, "runs")
    runs = Runs(folder, str(rank()))
    for some in uids:
        runs.add(some)
    runs.flush()
    barrier()
    return on_rank_zero(lambda: _merge(folder, recipe, out))


def _subfolder(folder: Path, name: str) -> Path:
    on_rank_zero((folder / name).mkdir)
    return folder / name


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _merge(folder: Path, recipe: ParsedRecipe, out: Path) -> dict[str, Any]:
    sets = (("union", recipe.union), ("intersection", recipe.intersect), ("difference", recipe.subtract))
    files = [(name, path) for name, paths in sets for path in paths]
    others = [(name, Subset.load(path)) for name, path in files]
    combined = combine(out, [Subset.load(run).uids for run in few_runs(folder)], others)
    operations = [
        {"operation": name, "file": path, "size": len(other), "num_kept": num_kept}
        for (name, path), (_, other), num_kept in zip(files, others, combined.after)
    ]
    return {"operations": operations, "num_kept": combined.num_kept, "num_unique": combined.num_unique}
