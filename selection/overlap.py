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
    """(k, k) |A and B| / |A or B| from counts as :func:`overlaps` gives them, in [0, 1]; 0 for two empty sets."""
    sizes = np.diag(shared)
    return shared / np.maximum(sizes[:, None] + sizes - shared, 1)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's correlation of two (n,) scores over the samples where both are finite; NaN when there is none."""
    both = np.isfinite(one) & np.isfinite(other)
    return float(rank_correlations(np.stack([one[both], other[both]]))[0, 1])


def rank_correlations(scores: np.ndarray) -> np.ndarray:
    """(k, k) Spearman's correlation of each two of (k, n) finite scores; NaN where one of the two is constant.

    Equal scores share their mean rank.
    """
    ranks = np.array([_mean_ranks(row) for row in scores])
    ranks -= ranks.sum(axis=1, keepdims=True) / max(1, ranks.shape[1])
    norms = np.linalg.norm(ranks, axis=1)
    products = np.outer(norms, norms)
    return np.divide(ranks @ ranks.T, products, out=np.full_like(products, np.nan), where=products > 0)


def _mean_ranks(scores: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
