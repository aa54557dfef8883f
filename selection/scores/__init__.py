"""Scores by name. A score is one module of this package: a pure function on features, and a registered column of it.

A column function takes a :class:`FeatureBlock` first; its other parameters are the options a recipe may set, with
their defaults. Every module here is imported, so adding a file is all that a new score needs. Higher is better, always.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import ClipsiftError
from selection.options import check_options, options_of


def _no_target(name: str) -> Tensor:
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
    target: Callable[[str], Tensor] = _no_target

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class ScoreSpec:
    """A registered score: its column function, the features it ``needs`` ("image", "text") and its options."""

    name: str
    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    options: Mapping[str, Any]  # name -> default; inspect.Parameter.empty where one must be given
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
    name: str, needs: tuple[str, ...] = ("image", "text"), rule: Callable[..., None] | None = None
) -> Callable[[ColumnFunction], ColumnFunction]:
    """Make a column function known to recipes as ``name``; ``rule`` refuses options that do not go together."""

    def enter(function: ColumnFunction) -> ColumnFunction:
        if name in SCORES:
            raise ValueError(f"score {name} is registered twice")
        SCORES[name] = ScoreSpec(name, function, needs, options_of(function), rule)
        return function

    return enter


def get_score(name: str) -> ScoreSpec:
    """The score called ``name``; :class:`ClipsiftError` names the known ones otherwise."""
    if name not in SCORES:
        raise ClipsiftError(f"score {name} is unknown (known: {', '.join(sorted(SCORES))})")
    return SCORES[name]


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
