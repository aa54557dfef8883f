"""Which sample comes when: a pure function of the seed and of the place in the sequence of samples.

The training sequence has places 0, 1, 2 ...; step ``s`` holds the places ``s * global_batch`` to
``(s + 1) * global_batch``. Rank, worker and world size do not occur here, so any machine sees the same global batches
and the only state of a loader is its step.
"""

from __future__ import annotations

from math import isqrt
from typing import Literal

import numpy as np

from selection.kernels.hashing import hash64, mix

Sampling = Literal["shuffled", "resampled"]

_ROUNDS = 8
_SHUFFLE, _RESAMPLE, _REPLACE = range(3)  # what a hash is for; keeps the streams apart


def places_at(step: int, global_batch: int) -> np.ndarray:
    """The ``(global_batch,)`` int64 places of one step in the sequence of samples."""
    return np.arange(step * global_batch, (step + 1) * global_batch, dtype=np.int64)


def draw(places: np.ndarray, num_rows: int, seed: int, sampling: Sampling) -> np.ndarray:
    """Which of ``num_rows`` samples stands at each place.

    ``shuffled``: places ``[p * num_rows, (p + 1) * num_rows)`` are pass ``p`` and hold every sample exactly once;
    batches run on across passes. Each pass has its own order, a pseudo-random permutation in O(1) memory that is
    computed place by place, so a billion samples cost no more than ten. It is a shuffle over the whole subset, not
    within a window: where a sample lands is uniform, neighbours in the pool are no likelier to meet than strangers,
    and passes are independent, as far as chi-squared tests over thousands of seeds can tell
    (``tests/training/loading/test_permutation.py``). It reaches 2^64 of the ``num_rows!`` orders.

    ``resampled``: every place is an independent uniform draw with replacement. DataComp's loader draws whole *shards*
    so; drawing samples keeps its statistics over a run and drops the correlation within a batch.

    Args:
        places: int64, any shape.
        num_rows: number of samples, at least 1.
        seed: the run's seed.

    Returns:
        int64 positions in ``[0, num_rows)``, of the shape of ``places``.
    """
    if sampling == "resampled":
        return _below(hash64(seed, _RESAMPLE, places), num_rows)
    passes, within = np.divmod(places, num_rows)
    return permute(within, num_rows, hash64(seed, _SHUFFLE, passes))


def replacement(place: int, attempt: int, num_rows: int, seed: int) -> int:
    """The position to try at ``place`` when what stood there cannot be used; ``attempt`` counts from 1."""
    return int(_below(hash64(seed, _REPLACE, np.int64(place), np.int64(attempt)), num_rows))


def permute(values: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Image of ``values`` in ``[0, size)`` under the pseudo-random permutation that each one's key names.

    A Feistel network on an ``a x b`` rectangle that just covers ``size`` (Black & Rogaway, "Ciphers with arbitrary
    finite domains", CT-RSA 2002, method 3): the two coordinates are shifted in turn by a hash of the other, which can
    be undone, so no two values collide. The few results outside ``[0, size)`` go round again until they fall inside.
    """
    height = isqrt(size - 1) + 1
    width = -(-size // height)  # height * width - size < height
    result = _shift_rounds(values, height, width, keys)
    while (outside := result >= size).any():
        result[outside] = _shift_rounds(result[outside], height, width, keys[outside])
    return result


def _shift_rounds(values: np.ndarray, height: int, width: int, keys: np.ndarray) -> np.ndarray:
    down, across = np.divmod(values, width)
    for number in range(_ROUNDS // 2):
        down = (down + _below(mix(mix(keys + np.uint64(2 * number)) ^ across.astype(np.uint64)), height)) % height
        across = (across + _below(mix(mix(keys + np.uint64(2 * number + 1)) ^ down.astype(np.uint64)), width)) % width
    return down * width + across


def _below(bits: np.ndarray, bound: int) -> np.ndarray:
    """64 random bits to int64 in ``[0, bound)``; the bias is below ``bound / 2^64``."""
    return (bits % np.uint64(bound)).astype(np.int64)
