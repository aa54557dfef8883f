"""Sums of outer products of features, and what a feature row is worth against one."""

from __future__ import annotations

import torch
from torch import Tensor

from selection.kernels.checks import check_features, check_same_shape
from selection.kernels.products import multiply
from selection.kernels.tiles import fill_rows, linear_tiles, tile_map


def gram(a: Tensor, b: Tensor | None = None) -> Tensor:
    """(d, d) float32 sum over rows of the outer products ``a_i b_i^T``; ``b`` defaults to ``a`` (n, d).

    Raises ValueError if the shapes differ or a row is not finite.
    """
    check_features(a, "a")
    if b is not None:
        check_same_shape(a, b, "a", "b")
        check_features(b, "b")

    def strip(rows: slice) -> Tensor:
        return outer_sum(a[rows], None if b is None else b[rows])

    total = torch.zeros(a.shape[1], a.shape[1], device=a.device)
    for part in tile_map(strip, linear_tiles(len(a), a.device), a.device):
        total += part
    return total


def outer_sum(a: Tensor, b: Tensor | None = None) -> Tensor:
    """:func:`gram` of rows that are one tile, unchecked."""
    if not a.is_cuda:
        a = a.float()  # once for both sides
    return multiply(a.T, a if b is None else b)


def quadratic(features: Tensor, matrix: Tensor, other: Tensor | None = None) -> Tensor:
    """(n,) float32 values of ``x_i^T matrix y_i`` for the rows x of ``features`` and y of ``other`` (default: x)."""
    matrix = matrix.float()

    def strip(rows: slice) -> Tensor:
        left = features[rows].float()
        right = left if other is None else other[rows].float()
        return (left @ matrix).mul_(right).sum(1)

    return fill_rows(
        torch.empty(len(features), device=features.device), strip, linear_tiles(len(features), features.device)
    )


def row_sum(features: Tensor) -> Tensor:
    """(d,) float64 sum of the rows of ``features`` (n, d)."""
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    parts = linear_tiles(len(features), features.device)
    for part in tile_map(lambda rows: features[rows].double().sum(0), parts, features.device):
        total += part
    return total


def group_means(features: Tensor, labels: Tensor, num_groups: int) -> Tensor:
    """(num_groups, d) float32 mean row of each group; zero for a group without rows. ``labels`` (n,) int64.

    The same bits each time, on a GPU too, where ``index_add_`` would add in whatever order its threads come.
    """
    sums = torch.zeros(num_groups, features.shape[1], dtype=torch.float64, device=features.device)
    for rows in linear_tiles(len(features), features.device):
        values = features[rows].double()
        if sums.is_cuda:
            sums.index_put_((labels[rows],), values, accumulate=True)  # sorts the labels, and adds each one's in order
        else:
            sums.index_add_(0, labels[rows], values)
    counts = labels.bincount(minlength=num_groups)
    return (sums / counts.clamp(min=1)[:, None]).float()
