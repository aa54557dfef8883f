"""How alike subsets and scores are: common uids, Jaccard, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selection.subset import Subset
from selection.subset_files import stretches


def overlaps(subsets: Sequence[Subset]) -> np.ndarray:
    """(k, k) int64: how many distinct uids each two subsets share; the diagonal has their own numbers.

    Subsets may be memory mapped and of any size: they are walked through together, a stretch at a time.
    """
    shared = np.zeros((len(subsets), len(subsets)), np.int64)
    for pieces in stretches([subset.uids for subset in subsets]):
        parts = [Subset.of_sorted(Subset.of_sorted(piece).unique) for piece in pieces]
        for i, one in enumerate(parts):
            for j, other in enumerate(parts[: i + 1]):
                shared[i, j] += np.count_nonzero(other.multiplicity(one.uids)) if i != j else len(one)
    return shared + np.tril(shared, -1).T


def jaccard(shared: np.ndarray) -> np.ndarray:
    """(k, k) |A and B| / |A or B| from :func:`overlaps`, in [0, 1]; 0 for two empty subsets."""
    sizes = np.diag(shared)
    return shared / np.maximum(sizes[:, None] + sizes - shared, 1)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two (n,) scores over the samples where both are finite; NaN when there is none.

    Equal scores share their mean rank.
    """
    both = np.isfinite(one) & np.isfinite(other)
    ranks = [_mean_ranks(scores[both]) for scores in (one, other)]
    spread = [float(values.std()) if len(values) else 0.0 for values in ranks]
    if not all(spread):
        return float("nan")
    product = (ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())
    return float(product.mean() / (spread[0] * spread[1]))


def _mean_ranks(scores: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]
