"""Exponential clocks in logarithms of time: a pure function of seed, sample and count, exact for any range of rates."""

from __future__ import annotations

import numpy as np

from selection.kernels.hashing import hash64

_PIECE = 1 << 14  # so many at a time stay in the cache


def log_exponentials(seed: int, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n,) float64 logarithms of standard exponential variables, one for each (seed, key, count)."""
    result = np.empty(len(keys))
    for start in range(0, len(keys), _PIECE):
        rows = slice(start, start + _PIECE)
        bits = hash64(seed, keys[rows], counts[rows]) >> np.uint64(12)
        uniform = (bits.astype(np.float64) + 0.5) * 2.0**-52  # neither 0 nor 1
        result[rows] = np.log(-np.log(uniform))
    return result


def next_rings(start: np.ndarray, log_rates: np.ndarray, seed: int, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(n,) float64 logarithms of when clocks that were set at ``exp(start)`` ring, given the logarithms of their rates.

    ``keys`` (n,) name the samples, ``counts`` (n,) say how often each has rung before.
    """
    waits = log_exponentials(seed, keys, counts)
    waits -= log_rates
    return np.logaddexp(start, waits, out=waits)
