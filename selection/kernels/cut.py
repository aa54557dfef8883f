"""The exact cut of a top fraction over all ranks: nobody ever holds all scores.

Rounds of counting find the score at the cut: the ranks add up a histogram of the upper 16 bits of every score, then
one of the next 16 bits of the scores that share the upper ones of the cut, until few are left, which are gathered. What
scores exactly as the cut does is kept in order of uid (of repeated uids, in order of the pool), found in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipsift_common.distributed import gather_objects, sum_over_ranks
from selection.kernels.order_bits import from_order_bits, order_bits

GATHERED = 1 << 20  # so many scores or ties are gathered and sorted; more are counted by their digits first

_DIGIT = 16  # bits
_TIE = np.dtype([("high", "u8"), ("low", "u8"), ("position", "u8")])


class Rows(Protocol):
    """Some rows of the pool that are still in, such as those of one score file."""

    def scores(self) -> np.ndarray:
        """(n,) float32 or float64, of one dtype in all parts."""

    def uids(self, chosen: np.ndarray) -> np.ndarray:
        """(k,) uids of the rows where ``chosen`` (n,) bool."""

    def positions(self, chosen: np.ndarray) -> np.ndarray:
        """(k,) uint64 that grow along the pool and tell apart all its rows."""


@dataclass(frozen=True)
class Cut:
    """Kept are the finite scores above ``score``, and those equal to it up to ``last`` in order of uid."""

    score: np.floating
    last: np.void | None = None  # of _TIE; None: all that are equal

    @property
    def last_uid(self) -> str | None:
        """The uid of ``last``."""
        return None if self.last is None else f"{self.last['high']:016x}{self.last['low']:016x}"

    def mask(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """(n,) scores and (n,) bool of the rows that are kept."""
        scores = rows.scores()
        kept = np.isfinite(scores) & (scores >= self.score)
        if self.last is not None:
            ties = kept & (scores == self.score)
            if ties.any():
                kept[ties] = ~_after(_tie_keys(rows, ties), self.last)
        return scores, kept


def find_cut(parts: Sequence[Rows], count: int, ties: bool = False, dtype: type[np.floating] = np.float32) -> Cut:
    """The cut that keeps the ``count`` highest finite scores over all ranks, or all when there are fewer.

    Args:
        parts: this rank's rows, each of them on one rank only. They are read a few times, and a few times more when
            millions of scores are equal.
        count: at least 1.
        ties: keep all that are equal to the lowest score kept, instead of exactly ``count``.
        dtype: of all scores; a rank may have none.
    """
    width = 8 * np.dtype(dtype).itemsize
    upper, shift, needed, num_equal = 0, width, count, 0
    while shift:
        counts = _histogram(_next_digit(bits, shift - _DIGIT) for bits in _sharing(parts, upper, shift))
        if shift == width and count > counts.sum():
            return Cut(dtype(-np.inf))
        digit, needed = _from_the_top(counts, needed)
        upper, shift, num_equal = upper << _DIGIT | digit, shift - _DIGIT, int(counts[digit])
        if shift and num_equal <= GATHERED:
            upper, needed, num_equal = _among_few(list(_sharing(parts, upper, shift)), needed)
            break
    score = from_order_bits(np.array([upper], f"u{np.dtype(dtype).itemsize}"))[0]
    if ties or needed == num_equal:
        return Cut(score)
    return Cut(score, _last_tie(parts, score, needed, num_equal))


def _sharing(parts: Sequence[Rows], upper: int, shift: int) -> Iterator[np.ndarray]:
    """Of each part the order bits of finite scores that are ``upper`` above the lowest ``shift`` bits."""
    for part in parts:
        scores = part.scores()
        bits = order_bits(scores[np.isfinite(scores)])
        unsigned = bits.dtype.type
        yield bits if shift == 8 * bits.itemsize else bits[bits >> unsigned(shift) == unsigned(upper)]


def _next_digit(bits: np.ndarray, shift: int) -> np.ndarray:
    return (bits >> bits.dtype.type(shift)).astype(np.int64) & ((1 << _DIGIT) - 1)


def _among_few(found: Sequence[np.ndarray], needed: int) -> tuple[int, int, int]:
    """The ``needed``-th highest of all ranks' bits, how many that equal it are needed, and how many there are."""
    near = np.sort(np.concatenate([part for parts in gather_objects(found) for part in parts]))[::-1]
    value = near[needed - 1]
    return int(value), needed - int(np.count_nonzero(near > value)), int(np.count_nonzero(near == value))


def _histogram(digits: Iterable[np.ndarray]) -> np.ndarray:
    """(65536,) int64 counts of 16-bit digits over all ranks."""
    counts = np.zeros(1 << _DIGIT, np.int64)
    for part in digits:
        counts += np.bincount(part, minlength=1 << _DIGIT)
    return sum_over_ranks(counts)


def _from_the_top(counts: np.ndarray, needed: int) -> tuple[int, int]:
    """The highest digit with ``needed`` values at or above it, and how many of its own are needed."""
    digit, rest = _from_the_bottom(counts[::-1], needed)
    return len(counts) - 1 - digit, rest


def _from_the_bottom(counts: np.ndarray, needed: int) -> tuple[int, int]:
    totals = np.cumsum(counts)
    digit = int(np.searchsorted(totals, needed))
    return digit, needed - int(totals[digit] - counts[digit])


def _last_tie(parts: Sequence[Rows], score: np.floating, needed: int, num_ties: int) -> np.void:
    """The key of rank ``needed`` (from 1) among those that score exactly ``score``."""
    digits: list[int] = []
    while num_ties > GATHERED and len(digits) < 8:
        counts = _histogram(_digit(keys, len(digits)) for keys in _ties(parts, score, digits))
        digit, needed = _from_the_bottom(counts, needed)
        num_ties = int(counts[digit])
        digits.append(digit)
    mine = np.concatenate([np.empty(0, _TIE), *_ties(parts, score, digits)])
    keys = np.concatenate(gather_objects(mine))
    return keys[np.lexsort((keys["position"], keys["low"], keys["high"]))[needed - 1]]


def _ties(parts: Sequence[Rows], score: np.floating, digits: list[int]) -> Iterator[np.ndarray]:
    """The keys of each part's rows that score ``score`` and whose uids begin with ``digits``."""
    for part in parts:
        chosen = part.scores() == score
        if chosen.any():
            keys = _tie_keys(part, chosen)
            for number, digit in enumerate(digits):
                keys = keys[_digit(keys, number) == digit]
            yield keys


def _tie_keys(rows: Rows, chosen: np.ndarray) -> np.ndarray:
    uids = rows.uids(chosen)
    keys = np.empty(len(uids), _TIE)
    keys["high"], keys["low"], keys["position"] = uids["f0"], uids["f1"], rows.positions(chosen)
    return keys


def _digit(keys: np.ndarray, number: int) -> np.ndarray:
    """The 16-bit digit of the uids, number 0 to 7 from the left."""
    half = keys["high" if number < 4 else "low"]
    return (half >> np.uint64(48 - 16 * (number % 4)) & np.uint64(0xFFFF)).astype(np.int64)


def _after(keys: np.ndarray, last: np.void) -> np.ndarray:
    """(k,) bool, whether each key comes after ``last``."""
    after = np.zeros(len(keys), bool)
    equal = np.ones(len(keys), bool)
    for name in ("high", "low", "position"):
        after |= equal & (keys[name] > last[name])
        equal &= keys[name] == last[name]
    return after
