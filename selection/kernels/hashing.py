"""Random bits as a pure function of what they are for: the same on any rank, in any order."""

from __future__ import annotations

import numpy as np


def hash64(seed: int, *words: int | np.ndarray | np.integer) -> np.ndarray:
    """64 well-mixed bits from a seed and words (integers or arrays that broadcast)."""
    state = mix(np.asarray(seed % 2**64, np.uint64))
    for word in words:
        state = mix(state ^ np.asarray(word).astype(np.uint64))
    return state


def mix(bits: np.ndarray) -> np.ndarray:
    """Steele, Lea & Flood's SplitMix64 step (OOPSLA 2014): every input bit flips half of the output's."""
    with np.errstate(over="ignore"):
        bits = bits + np.uint64(0x9E3779B97F4A7C15)  # a copy, which the rest works on
        bits ^= bits >> np.uint64(30)
        bits *= np.uint64(0xBF58476D1CE4E5B9)
        bits ^= bits >> np.uint64(27)
        bits *= np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        return bits
