"""A recipe over score files of any number, on all ranks: each keeps in mind which rows of its own files are left.

:meth:`selection.recipe.Recipe.apply` says what is kept; this does the same without ever holding all scores or uids.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.distributed import barrier, broadcast_object, gather_objects, rank, sum_over_ranks, world_size
from selection.cut import Cut, find_cut
from selection.merge import Runs, combine
from selection.recipe import FeatureSource, Recipe
from selection.score_files import ScoreFile
from selection.step import Step
from selection.subset import Subset

logger = logging.getLogger("clipsift")


class _Column:
    """The rows left of a score file, by one score."""

    def __init__(self, file: ScoreFile, name: str) -> None:
        self.file, self.name = file, name
        self.uids, self.positions = file.uids, file.positions

    def scores(self) -> np.ndarray:
        return self.file.column(self.name)


class _WholeColumns(Mapping[str, np.ndarray]):
    """The columns of all score files, each read when asked for."""

    def __init__(self, files: Sequence[ScoreFile], names: Sequence[str]) -> None:
        self.files, self.names = files, names

    def __getitem__(self, name: str) -> np.ndarray:
        return np.concatenate([np.empty(0, np.float32), *(file.column(name) for file in self.files)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def choose(
    paths: Sequence[Path], recipe: Recipe, out: Path, features: FeatureSource | None = None, seed: int = 0
) -> dict[str, Any]:
    """Write the subset file ``out`` that ``recipe`` makes of the score files ``paths``; a collective call.

    Files are split over ranks, and the result does not depend on how. Memory is a bit per row, one score file, and a
    bounded number of uids. Recipes that combine scores or use set methods look at all samples at once: rank 0 applies
    them in memory, with ``features`` and ``seed`` as in :meth:`Recipe.apply`. Choosing starts anew after a restart.

    Returns:
        What :meth:`Recipe.apply` tells about its steps and operations, with ``num_kept`` and ``num_unique``, and
        each step's ``last_tie``: of the samples that score ``threshold``, the last uid kept (None: all were kept).

    Raises:
        ClipsiftError: for a damaged score file, a step that keeps nothing, a subset file that cannot be read.
    """
    if not recipe.is_plain:
        about = _choose_whole(paths, recipe, out, features, seed) if rank() == 0 else {}
        return broadcast_object(about)
    mine = [ScoreFile(number, path) for number, path in enumerate(paths)][rank() :: world_size()]
    if recipe.within:
        within = Subset.load(recipe.within)
        for file in mine:
            file.keep(within.multiplicity(file.uids()) > 0)
    num_pool = _num_left(mine)
    steps = [_take_step(step, mine, num_pool) for step in recipe.steps]
    about = _write(mine, recipe, out)
    return {"num_pool": num_pool, "steps": steps} | about


def _choose_whole(
    paths: Sequence[Path], recipe: Recipe, out: Path, features: FeatureSource | None, seed: int
) -> dict[str, Any]:
    files = [ScoreFile(number, path) for number, path in enumerate(paths)]
    columns = _WholeColumns(files, [column.name for column in recipe.columns])
    subset, about = recipe.apply(np.concatenate([file.uids() for file in files]), columns, features, seed)
    subset.save(out)
    return about | {"num_kept": len(subset), "num_unique": len(subset.unique)}


def _take_step(step: Step, mine: list[ScoreFile], num_pool: int) -> dict[str, Any]:
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
    return record | {"threshold": threshold, "last_tie": cut.last_uid, "options": step.options}


def _cut(step: Step, columns: list[_Column], num_pool: int) -> Cut:
    if step.threshold is not None:
        return Cut(np.float32(step.threshold))
    if step.ties == "datacomp":
        return find_cut(columns, step.size(num_pool) + 1, ties=True)
    return find_cut(columns, step.size(num_pool))


def _num_left(mine: list[ScoreFile]) -> int:
    return int(sum_over_ranks(np.array([sum(file.num_left for file in mine)])).item())


def _write(mine: list[ScoreFile], recipe: Recipe, out: Path) -> dict[str, Any]:
    """Every rank leaves the uids it keeps as sorted runs; rank 0 merges them and applies the set operations."""
    scratch = out.with_name(f".{out.name}.runs")
    if rank() == 0:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    barrier()
    runs = Runs(scratch, str(rank()))
    for file in mine:
        runs.add(file.uids())
    runs.flush()
    barrier()
    about = _merge(scratch, recipe, out) if rank() == 0 else {}
    return broadcast_object(about)


def _merge(scratch: Path, recipe: Recipe, out: Path) -> dict[str, Any]:
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
