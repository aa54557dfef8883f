"""ClipCov's greedy inside one class, exact and lazy: what a pick covers of a sample is worked out when it matters.

A score only falls by what new picks cover, so one of some picks ago, less a lower bound of what the picks since then
cover, bounds it from above. Only samples whose bounds are among the best are looked at exactly.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

BOUND_EVERY = 200  # picks between two updates of all bounds
_WINDOW = 1024  # samples among which the best are looked for, at least


class Sums(Protocol):
    """For pairs i, j of a class of n: sums of C+_ij + C+_ji over some j, as in :mod:`selection.kernels.positive`."""

    def most_over_all(self) -> tuple[np.ndarray, bool]:
        """(n,) those over all j, or upper bounds, and whether they are exact."""

    def over_all(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) those over all j."""

    def least_over(self, rows: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """(len(rows),) lower bounds of those over the ``picks`` j."""

    def over(self, rows: np.ndarray, picks: np.ndarray, since: np.ndarray) -> np.ndarray:
        """(len(rows),) those over ``picks[since[i]:]`` of each row i."""


class ClassGreedy:
    """Picks of one class, a block at a time.

    Args:
        fixed: (n,) float64, the part of each score that no pick changes, without raw.
        label: (n,) float64 similarity to the class's label.
        sums: of the class's pairs.
        block: picks between two updates of the scores, one fewer the first time.
    """

    def __init__(self, fixed: np.ndarray, label: np.ndarray, sums: Sums, block: int) -> None:
        if block < 1:
            raise ValueError(f"block must be positive, got {block}")
        count = len(fixed)
        most, exact = sums.most_over_all()
        self._fixed, self._label, self._sums, self._block = fixed, label, sums, block
        self.raw = most / count  # upper bounds where it is not known
        self._raw_known = np.full(count, exact)
        self._covered, self._seen = np.zeros(count), np.zeros(count, np.int64)  # by so many picks, the first
        self._bound = fixed + self.raw
        self._left = np.ones(count, bool)
        self._picks, self.num_picked, self._num_bounded = np.empty(count, np.int64), 0, 0
        self._raw_picked = self._shared = 0.0
        self._window, self._outside = np.empty(0, np.int64), (-np.inf, 0)

    @property
    def num_left(self) -> int:
        """How many have not been picked."""
        return len(self._left) - self.num_picked

    def next_block(self) -> tuple[np.ndarray, np.ndarray]:
        """(k,) int64 the next picks, best first, and their float64 scores when picked; none when all have been."""
        picks = self._best(min(self.num_left, self._room()))
        scores = self._bound[picks] - self._shared / len(self._left)
        self._take(picks)
        return picks, scores

    def repeat(self, picks: np.ndarray, raw: np.ndarray) -> None:
        """Go to where whole blocks of ``picks``, with their exact ``raw``, have been made."""
        self.raw[picks], self._raw_known[picks] = raw, True
        while len(picks):
            size = self._room()
            self._take(picks[:size])
            picks = picks[size:]

    def _room(self) -> int:
        return self._block - (self.num_picked + 1) % self._block

    def _take(self, picks: np.ndarray) -> None:
        self._left[picks] = False
        self._picks[self.num_picked : self.num_picked + len(picks)] = picks
        self.num_picked += len(picks)
        self._raw_picked += self.raw[picks].sum()
        self._shared += self._raw_picked + self._label[picks].sum() / 2
        if self.num_picked - self._num_bounded >= BOUND_EVERY:
            # a score that is younger than the last bounds has some of these picks in it
            rows = np.flatnonzero(self._left & (self._seen <= self._num_bounded))
            new = self._picks[self._num_bounded : self.num_picked]
            self._bound[rows] -= self._sums.least_over(rows, new) / len(self._left)
            self._num_bounded = self.num_picked

    def _best(self, need: int) -> np.ndarray:
        """The ``need`` best that are left, by their exact scores, then by index."""
        while True:
            window = self._window[self._left[self._window]]
            top = self._ordered(window)[:need]
            if len(top) < need or (need and self._key(top[-1]) > self._outside):
                self._refill(need)
                continue
            stale = top[(self._seen[top] < self.num_picked) | ~self._raw_known[top]]
            if not len(stale):
                return top
            self._evaluate(stale)

    def _key(self, row: int) -> tuple[float, int]:
        return -float(self._bound[row]), int(row)

    def _ordered(self, rows: np.ndarray) -> np.ndarray:
        return rows[np.lexsort((rows, -self._bound[rows]))]

    def _refill(self, need: int) -> None:
        """Look at the best bounds anew; bounds only fall, so those outside do not come before them."""
        order = self._ordered(np.flatnonzero(self._left))
        size = max(_WINDOW, 4 * need)
        self._window = order[:size]
        self._outside = self._key(order[size]) if len(order) > size else (np.inf, 0)

    def _evaluate(self, rows: np.ndarray) -> None:
        """Bring scores up to date with all picks."""
        unknown = rows[~self._raw_known[rows]]
        self.raw[unknown] = self._sums.over_all(unknown) / len(self._left)
        self._raw_known[unknown] = True
        fresh = self._seen[rows] == 0  # apart, so that they do not make others go through all picks again
        for some in (rows[fresh], rows[~fresh]):
            if len(some) and self.num_picked:
                picks = self._picks[: self.num_picked]
                self._covered[some] += self._sums.over(some, picks, self._seen[some])
                self._seen[some] = self.num_picked
        self._bound[rows] = self._fixed[rows] + self.raw[rows] - self._covered[rows] / len(self._left)
