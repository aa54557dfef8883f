"""Is a difference more than chance? Sign flips: what the mean would be if each pair's order were a coin's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EXACT_UP_TO = 16  # pairs; above, sign patterns are drawn instead of all being tried
DRAWS = 100_000


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the mean of paired ``differences``; None for fewer than two.

    The share of sign patterns with a mean at least as far from zero. With n pairs it cannot be below 2 / 2**n: three
    seeds never show more than 0.25, whatever they show.
    """
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return None
    if len(values) <= EXACT_UP_TO:
        bits = np.arange(1 << len(values))[:, None] >> np.arange(len(values)) & 1
        return float(np.mean(_as_far(bits, values)))
    bits = np.random.default_rng(0).integers(0, 2, (DRAWS, len(values)), dtype=np.int8)
    return float((_as_far(bits, values).sum() + 1) / (DRAWS + 1))


def _as_far(bits: np.ndarray, values: np.ndarray) -> np.ndarray:
    means = (1 - 2 * bits.astype(np.float64)) @ values
    return np.abs(means) >= abs(values.sum()) * (1 - 1e-12)  # rounding must not lose the pattern that was seen
