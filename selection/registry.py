"""Scores and set methods by name: what one is, what it may read, and how it becomes known to recipes.

A score is one module of :mod:`selection.scores`: a pure function on features, and a registered column of it that takes
a :class:`FeatureBlock` first; its other parameters are the options a recipe may set, with their defaults. Higher is
better, always.

A set method is one module of :mod:`selection.methods`: a pure function, and a registered form of it that takes
:class:`Candidates` first; its other parameters are the options, except ``size``, which is what ``keep`` or ``count``
says. It returns (m,) counts: bool for a method that keeps or drops, integers for one that may repeat samples.

This module knows none of them; ``selection.scores`` and ``selection.methods`` import every module they hold, so
adding a file is all that a new one needs. Take :data:`SCORES` and :data:`METHODS` from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from clipsift_common.errors import ClipsiftError
from selection.options import check_options, options_of

MOMENT = "moment"  # what a method needs beside "image" and "text" features


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
        moment: (d, d) second moment of the image features of the WHOLE pool, for a method that needs it.

    Features that the method does not need (``MethodSpec.needs``) are (m, 0); they may be memory mapped, in any
    floating dtype.
    """

    scores: np.ndarray | None = None
    moment: Tensor | None = None


@dataclass(frozen=True)
class MethodSpec:
    """A registered method: what it ``needs`` of the features, whether it chooses by a score column, and its options."""

    name: str
    function: Callable[..., np.ndarray | Tensor]
    needs: tuple[str, ...]
    by_score: bool
    repeats: bool  # whether counts may be above 1
    over_ranks: bool  # whether all ranks call it, to share the work, instead of the first alone
    sized: bool  # whether the recipe says how many
    options: Mapping[str, Any]
    version: int = 1  # raised when the code changes what comes out

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise :class:`ClipsiftError` for an unknown option, one of another type, or a required one left out."""
        check_options(f"method {self.name}", self.function, self.options, options)

    def __call__(self, candidates: Candidates, size: int | None, options: Mapping[str, Any]) -> np.ndarray:
        """(m,) int64 counts; ``size`` is None for a method that decides itself how many stay."""
        sized = {"size": size} if self.sized else {}
        counts = torch.as_tensor(self.function(candidates, **sized, **options)).cpu().numpy()
        if counts.shape != (len(candidates),):
            raise ValueError(f"method {self.name}: returned {counts.shape} for {len(candidates)} samples")
        return counts.astype(np.int64)


METHODS: dict[str, MethodSpec] = {}

MethodFunction = TypeVar("MethodFunction", bound=Callable[..., np.ndarray | Tensor])


def register_method(
    name: str,
    needs: tuple[str, ...] = (),
    by_score: bool = False,
    repeats: bool = False,
    over_ranks: bool = False,
    version: int = 1,
) -> Callable[[MethodFunction], MethodFunction]:
    """Make a function on :class:`Candidates` known to recipes as ``method: name``; ``version`` as of scores."""

    def enter(function: MethodFunction) -> MethodFunction:
        if name in METHODS:
            raise ValueError(f"method {name} is registered twice")
        options = options_of(function)
        sized = "size" in options
        options.pop("size", None)
        METHODS[name] = MethodSpec(name, function, needs, by_score, repeats, over_ranks, sized, options, version)
        return function

    return enter


def indices_to_mask(indices: Tensor, total: int) -> Tensor:
    """(total,) bool, true at ``indices``."""
    mask = torch.zeros(total, dtype=torch.bool)
    mask[indices.cpu()] = True
    return mask
