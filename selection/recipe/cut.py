"""The exact cut of a top fraction over all ranks: nobody ever holds all scores.

Two rounds of counting find the score at the cut: the ranks add up a histogram of the upper 16 bits of every score,
then one of the lower 16 bits of the scores that share the upper ones of the cut. What scores exactly as the cut does is
kept in order of uid (of repeated uids, in order of the pool), found by counting in the same way while it is much.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from clipsift_common.distributed import gather_objects, sum_over_ranks

GATHER_UIDS = 1 << 20  # ties up to so many are gathered and sorted; among more, uids are counted by their digits first

_DIGIT = 1 << 16
_TIE = np.dtype([("high", "u8"), ("low", "u8"), ("position", "u8")])


class Rows(Protocol):
    """Some rows of the pool that are still in, such as those of one score file."""

    def scores(self) -> np.ndarray:
        """(n,) float32."""

    def uids(self, chosen: np.ndarray) -> np.ndarray:
        """(k,) uids of the rows where ``chosen`` (n,) bool."""

    def positions(self, chosen: np.ndarray) -> np.ndarray:
        """(k,) uint64 that grow along the pool and tell apart all its rows."""


@dataclass(frozen=True)
class Cut:
    """Kept are the finite scores above ``score``, and those equal to it up to ``last`` in order of uid."""

    score: np.float32
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


def find_cut(parts: Sequence[Rows], count: int, ties: bool = False) -> Cut:
    """The cut that keeps the ``count`` highest finite scores over all ranks, or all when there are fewer.

    Args:
        parts: this rank's rows, each of them on one rank only. They are read up to twice, a few times more when
            millions of scores are equal.
        count: at least 1.
        ties: keep all that are equal to the lowest score kept, instead of exactly ``count``.
    """
    uppers = _histogram(_images(part) >> 16 for part in parts)
    if count > uppers.sum():
        return Cut(np.float32(-np.inf))
    upper, needed = _from_the_top(uppers, count)
    lowers = _histogram(image[image >> 16 == upper] & 0xFFFF for image in map(_images, parts))
    lower, needed = _from_the_top(lowers, needed)
    score = _score(upper << 16 | lower)
    if ties or needed == lowers[lower]:
        return Cut(score)
    return Cut(score, _last_tie(parts, score, needed, int(lowers[lower])))


def _images(rows: Rows) -> np.ndarray:
    """uint32 that order as the finite scores do."""
    scores = rows.scores()
    bits = (scores[np.isfinite(scores)] + np.float32(0)).view(np.uint32)  # + 0: minus zero is zero
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _score(image: int) -> np.float32:
    """The score of an image."""
    bits = image ^ (1 << 31) if image >> 31 else ~image & 0xFFFFFFFF
    return np.uint32(bits).view(np.float32)


def _histogram(digits: Iterable[np.ndarray]) -> np.ndarray:
    """(65536,) int64 counts of 16-bit digits over all ranks."""
    counts = np.zeros(_DIGIT, np.int64)
    for part in digits:
        counts += np.bincount(part, minlength=_DIGIT)
    return sum_over_ranks(counts)


def _from_the_top(counts: np.ndarray, needed: int) -> tuple[int, int]:
    """The highest digit with ``needed`` values at or above it, and how many of its own are needed."""
    digit, rest = _from_the_bottom(counts[::-1], needed)
    return len(counts) - 1 - digit, rest


def _from_the_bottom(counts: np.ndarray, needed: int) -> tuple[int, int]:
    totals = np.cumsum(counts)
    digit = int(np.searchsorted(totals, needed))
    return digit, needed - int(totals[digit] - counts[digit])


def _last_tie(parts: Sequence[Rows], score: np.float32, needed: int, num_ties: int) -> np.void:
    """The key of rank ``needed`` (from 1) among those that score exactly ``score``."""
    digits: list[int] = []
    while num_ties > GATHER_UIDS and len(digits) < 8:
        counts = _histogram(_digit(keys, len(digits)) for keys in _ties(parts, score, digits))
        digit, needed = _from_the_bottom(counts, needed)
        num_ties = int(counts[digit])
        digits.append(digit)
    mine = np.concatenate([np.empty(0, _TIE), *_ties(parts, score, digits)])
    keys = np.concatenate(gather_objects(mine))
    return keys[np.lexsort((keys["position"], keys["low"], keys["high"]))[needed - 1]]


def _ties(parts: Sequence[Rows], score: np.float32, digits: list[int]) -> Iterator[np.ndarray]:
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
