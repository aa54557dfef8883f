"""Columns made of columns: several scores of the same samples, made comparable and added up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clipsift_common.errors import ClipsiftError
from selection.options import check_options, options_of


def rank_sum(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) float64 sum over the columns of each sample's rank, 0 for the lowest; equal scores have equal ranks.

    The s-CLIPLoss authors' ``sum_rank`` of two scores (arXiv 2405.19547). A sample without a finite score in every
    column has none (NaN), and counts in no rank.
    """
    usable = _usable(columns)
    total = np.where(usable, 0.0, np.nan)
    for column in columns:
        values = column[usable]
        total[usable] += np.searchsorted(np.sort(values), values)
    return total


def weighted_sum(
    columns: Sequence[np.ndarray], weights: list[float] | None = None, normalise: bool = True
) -> np.ndarray:
    """(n,) float64 weighted sum of the columns, each first brought to [0, 1] by its own minimum and maximum.

    SIEVE's fusion of two scores (arXiv 2310.02110), with equal weights adding up to 1 as the default.
    ``normalise=False`` adds them as they are: a linear mix such as M-FLYT's (arXiv 2503.08805). A column that is the
    same everywhere is 0. A sample without a finite score in every column has none (NaN). Raises
    :class:`ClipsiftError` for another number of weights than columns.
    """
    weights = [1 / len(columns)] * len(columns) if weights is None else weights
    if len(weights) != len(columns):
        raise ClipsiftError(f"score weighted_sum: {len(weights)} weights for {len(columns)} columns")
    usable = _usable(columns)
    total = np.where(usable, 0.0, np.nan)
    for column, weight in zip(columns, weights):
        values = column[usable].astype(np.float64)
        if normalise and len(values):
            span = values.max() - values.min()
            values = (values - values.min()) / (span if span > 0 else 1.0)
        total[usable] += weight * values
    return total


def _usable(columns: Sequence[np.ndarray]) -> np.ndarray:
    usable = np.ones(len(columns[0]), bool)
    for column in columns:
        usable &= np.isfinite(column)
    return usable


COMBINATIONS: dict[str, Callable[..., np.ndarray]] = {"rank_sum": rank_sum, "weighted_sum": weighted_sum}


def check_combination(name: str, num_columns: int, options: dict[str, Any]) -> None:
    """Raise :class:`ClipsiftError` for fewer than two columns, a wrong option, or weights that do not go with them."""
    function = COMBINATIONS[name]
    check_options(f"score {name}", function, options_of(function), options)
    if num_columns < 2:
        raise ClipsiftError(f"score {name}: of is a list of two or more scores, such as [{{score: clip_score}}, ...]")
    weights = options.get("weights")
    if weights is not None and len(weights) != num_columns:
        raise ClipsiftError(f"score {name}: {len(weights)} weights for {num_columns} columns")
