"""A recipe on samples that are in memory: what each step and set operation leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from selection.methods import METHODS
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.step import Step
from selection.registry import Candidates
from selection.scoring.column import Column
from selection.subset import Subset

logger = logging.getLogger("clipsift")


class FeatureSource(Protocol):
    """Where set methods get features from; :class:`selection.recipe.gather.PoolFeatures` reads the pool's files.

    All ranks call together what is here.
    """

    def candidates(self, rows: np.ndarray, needs: tuple[str, ...], seed: int) -> tuple[Candidates, np.ndarray]:
        """Of the pool's ``rows`` (ascending) those with usable features, and the bool mask that says which they are."""

    def kept_rows(self, step: Step, masks: Mapping[int, np.ndarray], num_pool: int, seed: int) -> dict[int, np.ndarray]:
        """Ascending rows that a method which works by file keeps of those left, (rows,) bool by number of file."""

    def kept_of(self, step: Step, rows: np.ndarray, num_pool: int, seed: int) -> np.ndarray:
        """(m,) bool, which of the pool's ``rows`` (ascending) a method that works by file keeps."""

    def close(self) -> None:
        """Forget what :meth:`candidates` gave last."""


def apply_recipe(
    recipe: ParsedRecipe,
    uids: np.ndarray,
    columns: Mapping[str, np.ndarray],
    features: FeatureSource | None = None,
    seed: int = 0,
    rows: np.ndarray | None = None,
    num_pool: int | None = None,
) -> tuple[Subset, dict[str, Any]]:
    """Choose from scored samples. Of several processes all must call, with the same arguments.

    Args:
        uids: (n,) of the pool.
        columns: (n,) float32 scores by name of :attr:`columns`, higher is better; NaN marks a row without usable
            features, which counts towards the pool's size and is never kept by a step. A combination that is here
            by its name is taken as it is; any other is made over the pool.
        features: gives those of chosen rows to set methods; only needed if :attr:`gathers_features`.
        seed: of methods that draw at random.
        rows: (n,) ascending, which rows of the pool the samples are, for ``features``; default 0 to n - 1.
        num_pool: how many there were before earlier steps, which fractions refer to; default n, or how many of
            them are ``within``.

    Returns:
        The subset, and what each step did (for ``subset.json``).
    """
    left = np.arange(len(uids))
    if recipe.within:
        left = left[Subset.load(recipe.within).multiplicity(uids) > 0]
    pool, done = left, []
    num_pool = num_pool or len(pool)
    rows = np.arange(len(uids)) if rows is None else rows
    for step in recipe.steps:
        scores = None if step.column is None else _values(step.column, columns, pool, len(uids))[left]
        num_before, cut = len(left), None
        if step.method:
            left = _choose(step, left, rows, scores, num_pool, features, seed)
        else:
            assert scores is not None
            mask = step.mask(scores, uids[left], num_pool)
            left, cut = left[mask], float(scores[mask].min()) if mask.any() else None
        done.append(record_of(step, num_before, len(left), cut))
    subset, operations = Subset(uids[left]), []
    for operation, files in (
        ("union", recipe.union),
        ("intersection", recipe.intersect),
        ("difference", recipe.subtract),
    ):
        for path in files:
            other = Subset.load(path)
            subset = getattr(subset, operation)(other)
            operations.append({"operation": operation, "file": path, "size": len(other), "num_kept": len(subset)})
    return subset, {"num_pool": num_pool, "steps": done, "operations": operations}


def record_of(step: Step, num_before: int, num_kept: int, threshold: float | None) -> dict[str, Any]:
    """What a step did, for ``subset.json``; ``threshold`` is the lowest score kept, None of a method."""
    what = {"name": step.name, "score": step.score or step.method, "keep": step.keep or step.count}
    drops = _drops_none(step, num_before, num_kept)
    return what | {"num_kept": num_kept, "threshold": threshold, "drops_none": drops, "options": step.options}


def _drops_none(step: Step, num_before: int, num_kept: int) -> bool:
    """Whether a step kept all that was left to it, with a warning when it did: that is hardly what was meant."""
    repeats = step.method and METHODS[step.method].repeats
    if num_kept != num_before or step.keep == 1 or repeats:
        return False
    logger.warning(
        "select: %s drops none of the %s pairs that are left; keep is a share of the whole pool, count a number of it",
        step.name,
        f"{num_before:,}",
    )
    return True


def _values(column: Column, columns: Mapping[str, np.ndarray], pool: np.ndarray, num_rows: int) -> np.ndarray:
    """(num_rows,) scores of a column at the rows of the pool, which a combination compares; NaN elsewhere."""
    values = np.full(num_rows, np.nan)
    values[pool] = (
        columns[column.name][pool] if column.name in columns else column.values(lambda leaf: columns[leaf.name][pool])
    )
    return values


def _choose(
    step: Step,
    left: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray | None,
    num_pool: int,
    features: FeatureSource | None,
    seed: int,
) -> np.ndarray:
    """The samples, of those ``left``, that a set method keeps, repeated where it says so."""
    spec = METHODS[step.method]
    if scores is not None:
        left, scores = left[np.isfinite(scores)], scores[np.isfinite(scores)]
    if spec.needs and features is None:
        raise ValueError(f"{step.method} needs the features of the samples that are left")
    if spec.by_file:
        assert features is not None
        return left[features.kept_of(step, rows[left], num_pool, seed)]
    seed = step.seed(seed)
    empty = torch.empty(len(left), 0)
    candidates, usable = Candidates(empty, empty, seed), np.ones(len(left), bool)
    if spec.needs:
        assert features is not None
        candidates, usable = features.candidates(rows[left], spec.needs, seed)
    candidates.scores = None if scores is None else scores[usable]
    size = step.size(num_pool) if spec.sized else None

    def choose() -> np.ndarray:
        try:
            return spec(candidates, size, step.options)
        except ValueError as error:
            raise ClipsiftError(f"selection: {step.name}: {error}") from error

    return np.repeat(left[usable], on_rank_zero(choose))
