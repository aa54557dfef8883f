"""Whether two score columns say the same: rank correlation over the pool, and overlap of what each would keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """Square tables over the score columns, in their order.

    Attributes:
        names: of the columns.
        correlation: Spearman's rank correlation, in [-1, 1].
        overlap: Jaccard index of the best ``share`` by one and by the other, in [0, 1].
        share: of the rows that counts as best.
    """

    names: list[str]
    correlation: np.ndarray
    overlap: np.ndarray
    share: float


def agreement(columns: Mapping[str, np.ndarray], share: float) -> Agreement | None:
    """Compare score columns ((n,) each) over the rows where all are finite; None for fewer than two columns or rows."""
    scores = np.array(list(columns.values()), np.float64)
    scores = scores[:, np.isfinite(scores).all(axis=0)] if len(columns) > 1 else np.empty((0, 0))
    if scores.shape[1] < 2:
        return None
    ranks = np.array([_average_ranks(row) for row in scores])
    ranks -= ranks.mean(axis=1, keepdims=True)
    norms = np.maximum(np.linalg.norm(ranks, axis=1), 1e-12)  # a constant column agrees with nothing
    correlation = ranks @ ranks.T / np.outer(norms, norms)
    best = (scores >= np.quantile(scores, 1 - share, axis=1, keepdims=True)).astype(np.float64)
    both = best @ best.T
    sizes = np.diag(both)
    return Agreement(list(columns), correlation, both / (sizes[:, None] + sizes[None, :] - both), share)


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
