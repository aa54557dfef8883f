"""The n-th smallest of numbers that lie on all ranks: found by counting their digits, none is moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from clipsift_common.distributed import sum_over_ranks

_DIGIT = 1 << 16


def ordered(values: np.ndarray) -> np.ndarray:
    """(n,) uint64 that order as the float64 ``values`` (n,), none of them NaN, do."""
    bits = (values + 0.0).view(np.uint64)  # + 0: minus zero is zero
    return np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))


def nth_smallest(parts: Callable[[], Iterable[np.ndarray]], count: int) -> tuple[np.uint64, int]:
    """The number of rank ``count`` (from 1) over all ranks, and how many of those equal to it are up to that rank.

    ``parts``: gives this rank's numbers, uint64, in pieces, each time it is called: four times.
    A collective call; there must be ``count`` numbers at least.
    """
    prefix, needed = 0, count
    for shift in (48, 32, 16, 0):
        counts = np.zeros(_DIGIT, np.int64)
        for part in parts():
            if shift < 48:
                part = part[part >> np.uint64(shift + 16) == np.uint64(prefix)]
            digits = (part >> np.uint64(shift)).astype(np.int64) & (_DIGIT - 1)
            counts += np.bincount(digits, minlength=_DIGIT)
        totals = np.cumsum(sum_over_ranks(counts))
        digit = int(np.searchsorted(totals, needed))
        needed -= int(totals[digit - 1]) if digit else 0
        prefix = prefix << 16 | digit
    return np.uint64(prefix), needed
