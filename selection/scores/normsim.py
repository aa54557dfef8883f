"""NormSim (Wang et al. 2024, arXiv 2405.19547): how much of an image lies along a target set of images.

NormSim_p(x) = || F f(x) ||_p with the target's unit image features as the rows of F. p = 2 is optimal in the paper's
linear model, p = inf works best in practice.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_same_width
from selection.kernels.moments import gram, quadratic
from selection.kernels.products import product_tiles, row_tiles
from selection.kernels.tiles import fill_rows
from selection.options import Range
from selection.registry import FeatureBlock, register


@on_arrays
def normsim(features: Tensor, target: Tensor, p: float = 2) -> Tensor:
    """(n,) float32 p-norms of the inner products of each row of ``features`` (n, d) with the rows of ``target`` (t, d).

    ``p`` is at least 1; ``float("inf")`` gives the largest absolute product. Memory is O(n + d^2), never n x t; p = 2
    costs O((n + t) d^2), the others O(n t d). Raises ValueError for another p, an empty target, another width, or a
    row that is not finite.
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1, got {p}")
    check_features(features)
    check_features(target, "target")
    _check_target(features, target)
    if p == 2:
        return _root(features, gram(target))

    def strip(rows: slice) -> Tensor:
        parts = [_norm(products, p) for _, products in product_tiles(features[rows], target)]
        return _norm(torch.stack(parts, dim=1), p)

    return fill_rows(torch.empty(len(features), device=features.device), strip, row_tiles(features))


def _check_target(features: Tensor, target: Tensor, name: str = "target") -> None:
    if len(target) == 0:
        raise ValueError(f"{name} is empty")
    check_same_width(features, target, name)


def _norm(values: Tensor, p: float) -> Tensor:
    """(r,) p-norm of each row, taken relative to its largest value, whose p-th power alone might underflow."""
    largest = torch.maximum(values.amax(1), -values.amin(1))  # aminmax along rows is ten times slower on a CPU
    if math.isinf(p):
        return largest
    scale = largest.clamp(min=torch.finfo(values.dtype).tiny)
    return torch.linalg.vector_norm(values / scale[:, None], p, dim=1) * scale


def _root(features: Tensor, target_gram: Tensor) -> Tensor:
    return quadratic(features, target_gram).clamp_(min=0).sqrt_()


_grams: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def kept_gram(target: Tensor) -> Tensor:
    """``gram(target)``, computed once for a target tensor that stays as it is, as those of a FeatureBlock do."""
    if target not in _grams:
        _grams[target] = gram(target)
    return _grams[target]


@register("normsim", needs=("image",))
def normsim_column(block: FeatureBlock, target: str, p: Annotated[float, Range(1)] | Literal["inf"] = 2) -> Tensor:
    features, p = block.target(target), float(p)  # YAML reads inf as a word
    _check_target(block.image, features, f"target {target}")
    if p == 2:
        return _root(block.image, kept_gram(features))
    return normsim(block.image, features, p)
