"""Scores and set methods by name: what one is, what it may read, and how it becomes known to recipes.

A score is one module of :mod:`selection.scores`: a pure function on features, and a registered column of it that takes
a :class:`FeatureBlock` first; its other parameters are the options a recipe may set, with their defaults. Higher is
better, always.

A set method is one module of :mod:`selection.methods`: a pure function, and a registered form of it that takes
:class:`Candidates` first; its other parameters are the options, except ``size``, which is what ``keep`` or ``count``
says. It returns (m,) counts: bool for a method that keeps or drops, integers for one that may repeat samples. One that
looks at scores alone may take :class:`ScoreParts` instead (``by_part``) and give the counts of each of them in order:
then nobody holds all.

A set method whose memory must not grow with the pool is registered ``by_file``: it takes :class:`LeftRows` instead, on
all ranks, and returns the rows that it keeps of each of the rank's files.

This module knows none of them; ``selection.scores`` and ``selection.methods`` import every module they hold, so
adding a file is all that a new one needs. Take :data:`SCORES` and :data:`METHODS` from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import alone
from clipsift_common.engines.base import Engine
from clipsift_common.errors import ClipsiftError
from selection.options import check_options, options_of


def no_target(name: str) -> Tensor:
    """Features of target sets where there are none."""
    raise ClipsiftError(f"target {name}: this selection has no target features")


@dataclass
class FeatureBlock:
    """What a column function may read: n samples that are scored together.

    Attributes:
        image: (n, d) image features, unit rows.
        text: (n, d) text features, unit rows.
        seed: non-negative; mixed from the run's seed and the block's name, so that a score does not depend on which
            process computes it.
        columns: metadata columns by name, each (n,).
        target: (t, d) features of a target set by name; the same tensor each time, so that work on it can be kept.

    A score that needs no features (``ScoreSpec.needs``) still tells n from ``image``, which may then be (n, 0).
    """

    image: Tensor
    text: Tensor
    seed: int = 0
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    target: Callable[[str], Tensor] = no_target

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class ScoreSpec:
    """A registered score: its column function, the features it ``needs`` ("image", "text") and its options."""

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    options: Mapping[str, Any]  # name -> default; inspect.Parameter.empty where one must be given
    version: int = 1  # raised when the code changes what comes out: scores of another version are stale
    rule: Callable[..., None] | None = None  # refuses options that do not go together

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise :class:`ClipsiftError` for an unknown option, a wrong value, or a required one left out."""
        check_options(f"score {self.name}", self.function, self.options, options)
        if self.rule:
            self.rule(**options)

    def __call__(self, block: FeatureBlock, **options: Any) -> Tensor:
        """The (n,) float32 score column of ``block``."""
        self.check(options)
        column = self.function(block, **options).to(torch.float32)
        if column.shape != (len(block),):
            raise ValueError(f"score {self.name}: returned {tuple(column.shape)} for {len(block)} samples")
        return column


SCORES: dict[str, ScoreSpec] = {}

ColumnFunction = TypeVar("ColumnFunction", bound=Callable[..., Tensor])


def register(
    name: str,
    needs: tuple[str, ...] = ("image", "text"),
    rule: Callable[..., None] | None = None,
    version: int = 1,
) -> Callable[[ColumnFunction], ColumnFunction]:
    """Make a column function known to recipes as ``name``; ``rule`` refuses options that do not go together.

    ``version`` is part of what a score column is known by: raise it with a change of the code that changes scores.
    """

    def enter(function: ColumnFunction) -> ColumnFunction:
        if name in SCORES:
            raise ValueError(f"score {name} is registered twice")
        SCORES[name] = ScoreSpec(name, function, needs, options_of(function), version, rule)
        return function

    return enter


def get_score(name: str) -> ScoreSpec:
    """The score called ``name``; :class:`ClipsiftError` names the known ones otherwise."""
    if name not in SCORES:
        raise ClipsiftError(f"score {name} is unknown (known: {', '.join(sorted(SCORES))})")
    return SCORES[name]


@dataclass
class Candidates(FeatureBlock):
    """What a set method may read: the m samples that are left, in pool order; also a :class:`FeatureBlock` of them.

    Attributes:
        scores: (m,) float of the step's ``of``; None without it.

    Features that the method does not need (``MethodSpec.needs``) are (m, 0); they may be memory mapped, in any
    floating dtype.
    """

    scores: np.ndarray | None = None


class LeftFile(Protocol):
    """The rows of one file that are left and whose features can be used."""

    @property
    def rows(self) -> np.ndarray:
        """(m,) int64 ascending rows of the file."""

    def take(self, tower: str, index: np.ndarray | slice) -> np.ndarray:
        """(k, d) "image" or "text" features of ``rows[index]``."""


class LeftFiles(Protocol):
    """The rows of the pool's files that are left. It pickles: any process may open any file."""

    def open(self, number: int, towers: Sequence[str]) -> LeftFile:
        """File ``number``, without the rows where any of ``towers`` cannot be used."""


@dataclass(frozen=True)
class LeftRows:
    """What a method that works by file may use, on every rank.

    Attributes:
        files: of the pool.
        counts: rows left of each of them, in order, those with unusable features too.
        mine: the numbers of this rank's.
        folder: scratch that all ranks see; what is in it stays until the choice is done, also when it is killed.
        seed: non-negative.
        device: where to compute.
        engine: who does units of work.
        target: features of a target set by name, (t, d).
        moment: gives the (d, d) second moment of the image features of the WHOLE pool; a collective call.
    """

    files: LeftFiles
    counts: Sequence[int]
    mine: Sequence[int]
    folder: Path
    seed: int
    device: torch.device
    engine: Engine
    target: Callable[[str], Tensor]
    moment: Callable[[], Tensor]


PART_ROWS = 1 << 20  # of scores in memory, when they are taken by parts


@dataclass(frozen=True)
class ScorePart:
    """Scores of candidates that follow one another: the place of the first among all, and (n,) finite scores."""

    first: int
    scores: Callable[[], np.ndarray]


@dataclass(frozen=True)
class ScoreParts:
    """The scores of this rank's candidates by parts, each of them on one rank only.

    Attributes:
        parts: in order.
        num: candidates of all ranks.
        seed: non-negative.
        scratch: an empty folder that all ranks see, of the step's own.
    """

    parts: Sequence[ScorePart]
    num: int
    seed: int
    scratch: Path

    @classmethod
    def of(cls, scores: np.ndarray, seed: int, scratch: Path) -> ScoreParts:
        """(n,) finite scores in memory as parts."""
        starts = range(0, len(scores), PART_ROWS)
        parts = [ScorePart(start, partial(scores.__getitem__, slice(start, start + PART_ROWS))) for start in starts]
        return cls(parts, len(scores), seed, scratch)


def counts_in_memory(
    function: Callable[..., Iterator[np.ndarray]], scores: np.ndarray, seed: int, **options: Any
) -> np.ndarray:
    """(n,) int64 counts that ``function`` gives for parts of (n,) finite scores, in this process alone."""
    with alone(), TemporaryDirectory() as scratch:
        parts = ScoreParts.of(scores, seed, Path(scratch))
        return np.concatenate([np.empty(0, np.int64), *function(parts, **options)])


@dataclass(frozen=True)
class MethodSpec:
    """A registered method: what it ``needs`` of the features, whether it chooses by a score column, and its options."""

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    by_score: bool
    by_part: bool  # whether it takes ScoreParts, and yields counts
    repeats: bool  # whether counts may be above 1
    by_file: bool  # takes LeftRows, on all ranks, instead of Candidates, on the first alone
    sized: bool  # whether the recipe says how many
    options: Mapping[str, Any]
    version: int = 1  # raised when the code changes what comes out

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise :class:`ClipsiftError` for an unknown option, one of another type, or a required one left out."""
        check_options(f"method {self.name}", self.function, self.options, options)

    def __call__(self, candidates: Candidates, size: int | None, options: Mapping[str, Any]) -> np.ndarray:
        """(m,) int64 counts; ``size`` is None for a method that decides itself how many stay."""
        sized = {"size": size} if self.sized else {}
        if self.by_part:
            assert candidates.scores is not None
            return counts_in_memory(self.function, candidates.scores, candidates.seed, **sized, **options)
        counts = torch.as_tensor(self.function(candidates, **sized, **options)).cpu().numpy()
        if counts.shape != (len(candidates),):
            raise ValueError(f"method {self.name}: returned {counts.shape} for {len(candidates)} samples")
        return counts.astype(np.int64)

    def kept_rows(self, left: LeftRows, size: int | None, options: Mapping[str, Any]) -> dict[int, np.ndarray]:
        """Ascending rows kept of each of ``left.mine``, by a method that works by file; a collective call."""
        sized = {"size": size} if self.sized else {}
        return self.function(left, **sized, **options)


METHODS: dict[str, MethodSpec] = {}

MethodFunction = TypeVar("MethodFunction", bound=Callable[..., Any])


def register_method(
    name: str,
    needs: tuple[str, ...] = (),
    by_score: bool = False,
    by_part: bool = False,
    repeats: bool = False,
    by_file: bool = False,
    version: int = 1,
) -> Callable[[MethodFunction], MethodFunction]:
    """Make a function on :class:`Candidates` known to recipes as ``method: name``; ``version`` as of scores.

    ``by_file``: it is one on :class:`LeftRows`, which all ranks call, and returns ascending rows by number of file.
    ``by_part``: it takes :class:`ScoreParts`, all ranks together; only for one that samples by score, with ``repeats``,
    and so comes last.
    """
    if by_part and not (by_score and repeats and not needs):
        raise ValueError(f"method {name}: by_part goes with by_score and repeats, and with no features")

    def enter(function: MethodFunction) -> MethodFunction:
        if name in METHODS:
            raise ValueError(f"method {name} is registered twice")
        options = options_of(function)
        sized = "size" in options
        options.pop("size", None)
        METHODS[name] = MethodSpec(name, function, needs, by_score, by_part, repeats, by_file, sized, options, version)
        return function

    return enter


def indices_to_mask(indices: Tensor, total: int) -> Tensor:
    """(total,) bool, true at ``indices``."""
    mask = torch.zeros(total, dtype=torch.bool)
    mask[indices.cpu()] = True
    return mask
