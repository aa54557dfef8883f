"""Set methods by name: they choose among the samples that are left as a whole, rather than score them one by one.

A method is one module of this package: a pure function, and a registered form of it that takes :class:`Candidates`
first; its other parameters are the options a recipe may set, except ``size``, which is what ``keep`` or ``count``
says. It returns (m,) counts: bool for a method that keeps or drops, integers for one that may repeat samples. Every
module here is imported, so adding a file is all that a new method needs.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from selection.options import check_options, options_of
from selection.scores import FeatureBlock

MOMENT = "moment"  # what a method needs beside "image" and "text" features


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
    name: str, needs: tuple[str, ...] = (), by_score: bool = False, repeats: bool = False, over_ranks: bool = False
) -> Callable[[MethodFunction], MethodFunction]:
    """Make a function on :class:`Candidates` known to recipes as ``method: name``."""

    def enter(function: MethodFunction) -> MethodFunction:
        if name in METHODS:
            raise ValueError(f"method {name} is registered twice")
        options = options_of(function)
        sized = "size" in options
        options.pop("size", None)
        METHODS[name] = MethodSpec(name, function, needs, by_score, repeats, over_ranks, sized, options)
        return function

    return enter


def indices_to_mask(indices: Tensor, total: int) -> Tensor:
    """(total,) bool, true at ``indices``."""
    mask = torch.zeros(total, dtype=torch.bool)
    mask[indices.cpu()] = True
    return mask


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
