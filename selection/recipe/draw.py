"""Methods that sample by score, over score files of any number: every rank draws from its own files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from clipsift_common.distributed import gather_objects
from clipsift_common.errors import ClipsiftError
from selection.methods import METHODS
from selection.recipe.step import Step
from selection.registry import ScorePart, ScoreParts
from selection.scoring.files import ScoreFile


def draw(step: Step, mine: Sequence[ScoreFile], num_pool: int, seed: int, scratch: Path) -> Iterator[np.ndarray]:
    """The uids that a step whose method is by part draws, of each of this rank's files.

    A collective call, for the draws that :func:`selection.recipe.apply.apply_recipe` makes of all samples in memory.
    ``scratch`` is an empty folder that all ranks see, needed until the last uids are read.
    """
    assert step.column is not None
    spec, name = METHODS[step.method], step.column.name
    own = {file.number: int(np.count_nonzero(np.isfinite(file.column(name)))) for file in mine}
    sizes = sorted(size for sizes_of_rank in gather_objects(own) for size in sizes_of_rank.items())
    firsts = dict(zip((number for number, _ in sizes), np.cumsum([0, *(size for _, size in sizes)]).tolist()))
    parts = [ScorePart(firsts[file.number], partial(_finite, file, name)) for file in mine]
    scores = ScoreParts(parts, sum(size for _, size in sizes), step.seed(seed), scratch)
    sized = {"size": step.size(num_pool)} if spec.sized else {}
    try:
        counts = spec.function(scores, **sized, **step.options)
    except ValueError as error:
        raise ClipsiftError(f"selection: {step.name}: {error}") from error
    return (_repeated(file, name, part) for file, part in zip(mine, counts))


def _finite(file: ScoreFile, name: str) -> np.ndarray:
    scores = file.column(name)
    return scores[np.isfinite(scores)]


def _repeated(file: ScoreFile, name: str, counts: np.ndarray) -> np.ndarray:
    """The uids of a file's finite scores, each as often as ``counts`` (n,) say."""
    chosen = np.isfinite(file.column(name))
    chosen[chosen] = counts > 0
    return np.repeat(file.uids(chosen), counts[counts > 0])
