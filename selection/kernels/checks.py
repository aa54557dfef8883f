"""What the scoring functions ask of their tensors, said before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from selection.kernels.tiles import linear_tiles

_unit_rows: ContextVar[bool] = ContextVar("unit_rows", default=False)


@contextmanager
def unit_rows() -> Iterator[None]:
    """In the block, features on a GPU are taken for finite unit rows: looking at them would wait for the GPU.

    Where they are not finite, scores are not either.
    """
    token = _unit_rows.set(True)
    try:
        yield
    finally:
        _unit_rows.reset(token)


def taken_for_unit(features: Tensor) -> bool:
    """Whether :func:`unit_rows` says so of ``features``."""
    return features.is_cuda and _unit_rows.get()


def check_features(features: Tensor, name: str = "features") -> Tensor:
    """The (n,) float32 row norms of ``features`` (n, d).

    Raises ValueError when it is not a 2-D floating-point tensor or has a row with NaN or infinity (the first is named).
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"{name}: expected a 2-D floating-point tensor, got {features.dtype} {tuple(features.shape)}")
    # Into one tensor: a list of small results between the float32 tiles keeps malloc from using their memory again.
    norms = torch.empty(len(features), device=features.device)
    for rows in linear_tiles(len(features), features.device):
        norms[rows] = torch.linalg.vector_norm(features[rows].float(), dim=1)
    if taken_for_unit(features) or math.isfinite(
        norms.sum().item()
    ):  # one look; what follows would be six more on a GPU
        return norms
    bad = torch.isfinite(norms).logical_not_().nonzero()
    if len(bad):
        raise ValueError(f"{name}: row {int(bad[0])} has NaN or infinite values ({len(bad)} such rows)")
    return norms


def check_pair(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Row norms of ``image`` and ``text``, both (n, d). Raises ValueError if they differ in shape or have bad rows."""
    check_same_shape(image, text, "image", "text")
    return check_features(image, "image"), check_features(text, "text")


def check_same_shape(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Raise ValueError unless the shapes are equal."""
    if a.shape != b.shape:
        raise ValueError(f"{name_a} {tuple(a.shape)} and {name_b} {tuple(b.shape)} differ in shape")


def check_same_width(features: Tensor, target: Tensor, name: str = "target") -> None:
    """Raise ValueError unless the rows of both have the same number of dimensions."""
    if features.shape[-1] != target.shape[-1]:
        raise ValueError(f"{name} has {target.shape[-1]} dimensions, features have {features.shape[-1]}")


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless ``temperature`` is a positive, finite number."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be positive, got {temperature}")
