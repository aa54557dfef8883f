"""Whether two score columns say the same: rank correlation over the pool, and overlap of what each would keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from selection.overlap import jaccard, rank_correlations


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
    correlation = np.nan_to_num(rank_correlations(scores))  # a constant column agrees with nothing
    best = (scores >= np.quantile(scores, 1 - share, axis=1, keepdims=True)).astype(np.float64)
    return Agreement(list(columns), correlation, jaccard(best @ best.T), share)
