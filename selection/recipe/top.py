"""Which samples a step keeps: exact counts, ties by uid, thresholds, and DataComp's own rule.

NaN and infinite scores are never kept; callers that care count them (``~np.isfinite(scores)``).
"""

from __future__ import annotations

import numpy as np

from clipsift_common.errors import ClipsiftError


def num_to_keep(num_pool: int, keep: float) -> int:
    """The number of samples that ``keep`` stands for: a count as it is (an int), or ``int(num_pool * keep)``.

    The product is the float one, truncated, as in the published code: 0.29 of 100 keeps 28. Raises
    :class:`ClipsiftError` for a fraction outside (0, 1], a count outside 1..num_pool, or a fraction that keeps nothing.
    """
    if isinstance(keep, bool) or not isinstance(keep, int | float):
        raise ClipsiftError(f"keep: {keep!r} is no number; give a fraction in (0, 1] or a count")
    if isinstance(keep, int):
        if not 1 <= keep <= num_pool:
            raise ClipsiftError(f"keep: a count of {keep} is outside 1..{num_pool}, the samples there are")
        return keep
    if not 0 < keep <= 1:
        raise ClipsiftError(f"keep: {keep} is outside (0, 1]")
    count = int(num_pool * keep)
    if count == 0:
        raise ClipsiftError(f"keep: {keep} of {num_pool} samples keeps nothing")
    return count


def keep_top(scores: np.ndarray, uids: np.ndarray, count: int) -> np.ndarray:
    """(n,) bool mask of the ``count`` highest scores; among equal scores at the cut the smaller uids are kept.

    ``scores`` (n,) float, ``uids`` (n,) of fields (high, low). Exactly ``count`` are kept, or all finite ones when
    there are fewer. The result does not depend on the order of the samples.
    """
    if len(scores) != len(uids):
        raise ValueError(f"{len(scores)} scores for {len(uids)} uids")
    finite = np.isfinite(scores)
    num_finite = np.count_nonzero(finite)
    if count >= num_finite:
        return finite
    if count <= 0:
        return np.zeros(len(scores), dtype=bool)
    cut = np.partition(scores[finite], num_finite - count)[num_finite - count]
    kept = finite & (scores > cut)
    ties = np.flatnonzero(finite & (scores == cut))
    high, low = (uids[name][ties] for name in uids.dtype.names or ())
    kept[ties[np.lexsort((low, high))[: count - np.count_nonzero(kept)]]] = True
    return kept


def keep_threshold(scores: np.ndarray, threshold: float) -> np.ndarray:
    """(n,) bool mask of the finite scores at or above ``threshold``."""
    return np.isfinite(scores) & (scores >= threshold)


def keep_datacomp(scores: np.ndarray, count: int) -> np.ndarray:
    """(n,) bool mask by DataComp's rule: all at or above the score of rank ``count`` from 0: ``count + 1`` and ties.

    DataComp's code fails when there is no such rank; here all finite scores are kept then.
    """
    finite = np.isfinite(scores)
    num_finite = np.count_nonzero(finite)
    if count >= num_finite:
        return finite
    cut = np.partition(scores[finite], num_finite - 1 - count)[num_finite - 1 - count]
    return keep_threshold(scores, cut)
