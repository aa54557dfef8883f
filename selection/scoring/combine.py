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
    rows = usable(columns)
    return total(rows, [_ranks(column[rows]) for column in columns])


def weighted_sum(
    columns: Sequence[np.ndarray], weights: list[float] | None = None, normalise: bool = True
) -> np.ndarray:
    """(n,) float64 weighted sum of the columns, each first brought to [0, 1] by its own minimum and maximum.

    SIEVE's fusion of two scores (arXiv 2310.02110), with equal weights adding up to 1 as the default.
    ``normalise=False`` adds them as they are: a linear mix such as M-FLYT's (arXiv 2503.08805). A column that is the
    same everywhere is 0. A sample without a finite score in every column has none (NaN). Raises
    :class:`ClipsiftError` for another number of weights than columns.
    """
    return weigh(columns, weights, value_ranges(columns) if normalise else None)


def usable(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) bool, which samples have a finite score in every column."""
    return np.logical_and.reduce([np.isfinite(column) for column in columns])


def total(rows: np.ndarray, parts: Sequence[np.ndarray]) -> np.ndarray:
    """(n,) float64: the sum of ``parts``, which are of the samples where ``rows`` (n,) bool, NaN elsewhere."""
    result = np.where(rows, 0.0, np.nan)
    for part in parts:
        result[rows] += part
    return result


def value_ranges(columns: Sequence[np.ndarray]) -> np.ndarray:
    """(columns, 2) float64 lowest and highest of the usable scores; infinity and its negative where there are none."""
    rows = usable(columns)
    ends = [(column[rows].min(initial=np.inf), column[rows].max(initial=-np.inf)) for column in columns]
    return np.array(ends, np.float64)


def weigh(columns: Sequence[np.ndarray], weights: list[float] | None, ranges: np.ndarray | None) -> np.ndarray:
    """(n,) :func:`weighted_sum`, given the ``ranges`` (columns, 2) that become [0, 1]; as it is without them."""
    weights = [1 / len(columns)] * len(columns) if weights is None else weights
    if len(weights) != len(columns):
        raise ClipsiftError(f"score weighted_sum: {len(weights)} weights for {len(columns)} columns")
    rows, parts = usable(columns), []
    for number, (column, weight) in enumerate(zip(columns, weights)):
        values = column[rows].astype(np.float64)
        if ranges is not None:
            low, high = ranges[number]
            values = (values - low) / (high - low if high > low else 1.0)
        parts.append(weight * values)
    return total(rows, parts)


def _ranks(values: np.ndarray) -> np.ndarray:
    """(n,) int64, how many values are lower than each; sorted first, as looking up in random order misses the cache."""
    order = np.argsort(values)
    ordered = values[order]
    ranks = np.empty(len(values), np.int64)
    ranks[order] = np.searchsorted(ordered, ordered)
    return ranks


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
