"""The sequence of a run's samples: over the whole subset, within windows of shards, or drawn by weight.

A pure function of the seed and the place, like :mod:`training.loading.permutation`, on which it builds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from clipsift_common.files import array_fingerprint, fingerprint
from selection.kernels.hashing import hash64
from selection.pool.index import PoolIndex
from selection.pool.volumes.kept import UIDS_PRINTED
from training.loading.permutation import Sampling, draw, permute, replacement

_SHARDS, _INSIDE, _WHICH, _ROW, _INSTEAD = range(16, 21)  # what a hash is for, apart from permutation.py's purposes
_PASSES_KEPT = 2  # orders of shards remembered


@dataclass(frozen=True)
class SampleOrder:
    """What fixes the sequence of samples.

    ``window`` 0 is a shuffle over everything (:func:`training.loading.permutation.draw`). ``window`` W > 0 reads W
    shards at a time: each pass puts the shards in a new order, cuts them into windows of W, and shuffles the
    samples of a window among themselves. Every sample still comes once per pass and may come anywhere in it, and
    the passes are independent; but a batch holds samples of W shards only (of 2 W, where a window ends), and the
    samples of a shard stay within one window. How good a shuffle that is, is a matter of W: two samples of one
    shard meet in a batch S / W times as often as chance among S shards would have it. If the pool's own order means
    nothing (web pools are shuffled), nothing is lost; if shards differ, by source or date, each batch has the
    mixture of W random ones. ``tests/training/loading/test_order.py`` measures both.

    ``resampled`` with a window draws W shards for as many places as W shards have samples on average, and the
    places draw among these.

    Args:
        rows: (m,) kept rows of the pool's index, in pool order.
        global_batch: samples per step.
        seed: the run's.
        sampling: ``shuffled`` or ``resampled``.
        starts: (shards + 1,) where in ``rows`` each shard starts, and the end; needed for windows and weights.
        window: shards read at a time; 0: all.
        weights: (shards,) how much more often than others ``resampled`` draws each shard's samples; None: all alike.
        uids: fingerprints of the rows' uids, :data:`UIDS_PRINTED` at a time; None: they are read when they are wanted.
    """

    rows: np.ndarray
    global_batch: int
    seed: int
    sampling: Sampling
    starts: np.ndarray | None = None
    window: int = 0
    weights: np.ndarray | None = None
    uids: list[str] | None = None

    def fingerprint(self, index: PoolIndex) -> str:
        """Hash that is equal only for the same samples in the same order; it names uids, not places in files."""
        pieces = (self.rows[start : start + UIDS_PRINTED] for start in range(0, len(self.rows), UIDS_PRINTED))
        uids = self.uids or [array_fingerprint(index.uids_of(piece)) for piece in pieces]
        parts: list[object] = [uids, self.global_batch, self.seed, self.sampling]
        if self.window or self.weights is not None:
            assert self.starts is not None
            parts += [self.window, self.starts.tolist(), None if self.weights is None else self.weights.tolist()]
        return fingerprint(parts)

    def __getstate__(self) -> dict[str, Any]:
        """Where mapped rows lie, in the place of what they are: a worker maps them itself."""
        state, rows = {**self.__dict__}, self.rows
        is_file = isinstance(rows, np.memmap) and rows.filename is not None
        state.pop("_sequence", None)
        return state | {"rows": (str(rows.filename) if is_file else rows)}  # type: ignore[attr-defined]

    def __setstate__(self, state: dict[str, Any]) -> None:
        rows = state["rows"]
        self.__dict__.update(state)
        if isinstance(rows, str):
            self.__dict__["rows"] = np.load(rows, mmap_mode="r", allow_pickle=False)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The rows at ``places`` (int64, one-dimensional) of the sequence."""
        return np.asarray(self.rows[self._sequence.draw(places)])

    def instead(self, place: int, attempt: int) -> int:
        """The row to try at ``place`` when what stood there cannot be used; ``attempt`` counts from 1."""
        return int(self.rows[self._sequence.instead(place, attempt)])

    def ahead_of(self, place: int) -> tuple[int, list[int]]:
        """The number of the window that holds ``place``, and a row of each shard of it and of the next one."""
        assert isinstance(self._sequence, Windows)
        number = self._sequence.window_at(place)
        shards = [*self._sequence.shards_in(number), *self._sequence.shards_in(number + 1)]
        return number, [int(self.rows[self._sequence.starts[shard]]) for shard in dict.fromkeys(shards)]

    @cached_property
    def _sequence(self) -> Whole | Weighted | Windows:
        if not self.window and self.weights is None:
            return Whole(len(self.rows), self.seed, self.sampling)
        assert self.starts is not None
        if not self.window:
            return Weighted(self.starts, self.seed, self.weights)
        if self.sampling == "resampled":
            return DrawnWindows(self.starts, self.seed, self.window, self.weights)
        return Windows(self.starts, self.seed, self.window)


class Whole:
    """Shuffled or drawn over all positions."""

    def __init__(self, num_rows: int, seed: int, sampling: Sampling) -> None:
        self.num_rows, self.seed, self.sampling = num_rows, seed, sampling

    def draw(self, places: np.ndarray) -> np.ndarray:
        return draw(places, self.num_rows, self.seed, self.sampling)

    def instead(self, place: int, attempt: int) -> int:
        return replacement(place, attempt, self.num_rows, self.seed)


class Weighted:
    """Drawn with replacement, the samples of each shard with its weight."""

    def __init__(self, starts: np.ndarray, seed: int, weights: np.ndarray | None = None) -> None:
        self.starts, self.counts, self.seed = starts, np.diff(starts), seed
        self.mass = self.counts * (1.0 if weights is None else weights)
        self.ends = np.cumsum(self.mass)

    def draw(self, places: np.ndarray) -> np.ndarray:
        return self.inside(self.shards(hash64(self.seed, _WHICH, places)), hash64(self.seed, _ROW, places))

    def instead(self, place: int, attempt: int) -> int:
        dice = hash64(self.seed, _INSTEAD, np.array([place]), np.int64(attempt))
        return int(self.inside(self.shards(hash64(self.seed, _WHICH, dice)), dice)[0])

    def shards(self, dice: np.ndarray) -> np.ndarray:
        """A shard for each 64 random bits, with probability proportional to its mass."""
        at = np.searchsorted(self.ends, dice / 2.0**64 * self.ends[-1], "right")
        return at.clip(max=len(self.ends) - 1)

    def inside(self, shards: np.ndarray, dice: np.ndarray) -> np.ndarray:
        """A position in each of ``shards``, uniform."""
        return self.starts[shards] + (dice % self.counts[shards].astype(np.uint64)).astype(np.int64)


class Windows(Weighted):
    """Shuffled within windows of shards; ``width`` shards to a window."""

    def __init__(self, starts: np.ndarray, seed: int, width: int, weights: np.ndarray | None = None) -> None:
        super().__init__(starts, seed, weights)
        self.width, self.num_rows = width, int(starts[-1])
        self.per_pass = -(-len(self.counts) // width)  # windows
        self._passes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def draw(self, places: np.ndarray) -> np.ndarray:
        windows = self.windows_at(places)
        result = np.empty(len(places), np.int64)
        for window in np.unique(windows).tolist():
            mine = windows == window
            shards, start = self.shards_in(window), self._start(window)
            counts = self.counts[shards]
            ends = np.cumsum(counts)
            keys = np.broadcast_to(hash64(self.seed, _INSIDE, window), mine.sum())
            shuffled = permute(places[mine] - start, int(ends[-1]), keys)
            which = np.searchsorted(ends, shuffled, "right")
            result[mine] = self.starts[shards[which]] + shuffled - (ends - counts)[which]
        return result

    def instead(self, place: int, attempt: int) -> int:
        """A position of the same window: its shards are at hand."""
        dice = hash64(self.seed, _INSTEAD, np.array([place]), np.int64(attempt))
        shards = self.shards_in(self.window_at(place))
        ends = np.cumsum(self.mass[shards])
        which = np.searchsorted(ends, hash64(self.seed, _WHICH, dice) / 2.0**64 * ends[-1], "right")
        return int(self.inside(shards[which.clip(max=len(shards) - 1)], dice)[0])

    def window_at(self, place: int) -> int:
        return int(self.windows_at(np.array([place]))[0])

    def windows_at(self, places: np.ndarray) -> np.ndarray:
        """The numbers of the windows that hold the places; they count on through the passes."""
        passes, within = np.divmod(places, self.num_rows)
        windows = passes * self.per_pass
        for number in np.unique(passes).tolist():
            mine = passes == number
            windows[mine] += np.searchsorted(self._pass(number)[1], within[mine], "right") - 1
        return windows

    def shards_in(self, window: int) -> np.ndarray:
        number, within = divmod(window, self.per_pass)
        return self._pass(number)[0][within * self.width : (within + 1) * self.width]

    def _start(self, window: int) -> int:
        number, within = divmod(window, self.per_pass)
        return number * self.num_rows + int(self._pass(number)[1][within])

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the shards in a pass, and where in it each window starts (and the end)."""
        if number not in self._passes:
            size = len(self.counts)
            keys = np.broadcast_to(hash64(self.seed, _SHARDS, number), size)
            order = permute(np.arange(size), size, keys)
            ends = np.concatenate([[0], np.cumsum(self.counts[order])])
            edges = np.append(ends[: -1 : self.width], ends[-1])
            self._passes = dict([*self._passes.items()][1 - _PASSES_KEPT :]) | {number: (order, edges)}
        return self._passes[number]


class DrawnWindows(Windows):
    """Drawn with replacement from ``width`` shards at a time, which are drawn by weight."""

    def __init__(self, starts: np.ndarray, seed: int, width: int, weights: np.ndarray | None = None) -> None:
        super().__init__(starts, seed, width, weights)
        self.length = max(1, round(self.num_rows * min(1.0, width / len(self.counts))))  # places in a window

    def draw(self, places: np.ndarray) -> np.ndarray:
        windows, which = places // self.length, hash64(self.seed, _WHICH, places) % np.uint64(self.width)
        dice = hash64(self.seed, _SHARDS, windows, which)
        return self.inside(self.shards(dice), hash64(self.seed, _ROW, places))

    def windows_at(self, places: np.ndarray) -> np.ndarray:
        return places // self.length

    def shards_in(self, window: int) -> np.ndarray:
        return self.shards(hash64(self.seed, _SHARDS, np.int64(window), np.arange(self.width)))

    def instead(self, place: int, attempt: int) -> int:
        dice = hash64(self.seed, _INSTEAD, np.array([place]), np.int64(attempt))
        shards = self.shards_in(self.window_at(place))  # drawn by weight already
        return int(self.inside(shards[dice % np.uint64(self.width)], hash64(self.seed, _ROW, dice))[0])
