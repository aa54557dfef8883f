"""Draws of a batch after the other without replacement, the drawn ones less likely each time: when each batch ends.

A batch of softmax(logits) without replacement is the samples whose exponential clocks, of rate exp(logit), ring first.
Clocks forget: those that have not rung may run on into the next batch, so a sample needs one clock for each time it is
drawn instead of one for each batch. Time runs on; a batch ends when as many as it draws have rung since the last one
ended, and those are set anew, at their lower rate, when it ends. That is the law of the batches, exactly, in time that
grows with draws and samples, not with samples times batches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsift_common.distributed import gather_objects, sum_over_ranks
from selection.kernels.calendar import EVENT, Calendar, joined
from selection.kernels.clocks import next_rings
from selection.kernels.order_bits import from_order_bits, order_bits

_BINS = 12  # bits of a histogram of the times in which a batch may end
_END = np.dtype([("time", "u8"), ("key", "u8")])


@dataclass(frozen=True)
class Draws:
    """The clocks of the draws: of sample ``key`` with ``logit``, drawn ``count`` times, since ``start``."""

    alpha: float
    seed: int

    def rings(self, start: np.ndarray, logits: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(n,) float64 logarithms of when the samples ring next."""
        return next_rings(start, logits - self.alpha * counts, self.seed, keys, counts)

    def counts(self, ends: np.ndarray, logits: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """(n,) int64: how often each sample is drawn in batches that end at ``ends`` (batches,) of (time, key)."""
        counts = np.zeros(len(logits), np.int64)
        times, rows = from_order_bits(np.ascontiguousarray(ends["time"])), np.arange(len(logits))
        start, next_batch = np.full(len(logits), -np.inf), np.zeros(len(logits), np.int64)
        while len(rows):
            bits = order_bits(self.rings(start, logits[rows], keys[rows], counts[rows]))
            batch = np.maximum(np.searchsorted(ends["time"], bits), next_batch)
            batch += _is_after(ends, batch, bits, keys[rows])
            rung = batch < len(ends)
            rows, batch = rows[rung], batch[rung]
            counts[rows] += 1
            start, next_batch = times[batch], batch + 1
        return counts


def _is_after(ends: np.ndarray, batch: np.ndarray, bits: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """(n,) bool, whether an event at exactly the time at which its batch ends comes after its last one."""
    after = np.zeros(len(batch), bool)
    rows = np.flatnonzero(batch < len(ends))
    end = ends[batch[rows]]
    after[rows] = (bits[rows] == end["time"]) & (keys[rows] > end["key"])
    return after


def batch_ends(
    draws: Draws, parts: Iterable[tuple[np.ndarray, np.ndarray]], num_batches: int, batch_size: int, folder: Path
) -> np.ndarray:
    """(batches,) of fields time (order bits of a logarithm) and key: the last draw of each batch; a collective call.

    Args:
        parts: (n,) logits and (n,) keys of this rank's samples, a part at a time.
        num_batches: of ``batch_size`` samples each, which is at most the samples of all ranks.
        folder: empty, this rank's own; takes 32 bytes a sample and as much again for samples drawn.
    """
    calendar = Calendar(folder)
    for logits, keys in parts:
        calendar.push(_events(draws, -np.inf, logits, keys, np.zeros(len(keys), np.int64)))
    near, until = np.empty(0, EVENT), 0
    ends = np.empty(num_batches, _END)
    for number in range(num_batches):
        while (num_near := int(sum_over_ranks(np.array([len(near)]))[0])) < batch_size:
            pulled, until = calendar.pull(batch_size - num_near, batch_size)
            near = joined([near, pulled])
        end = ends[number] = _nth(near, batch_size, until)
        is_drawn = (near["time"] < end["time"]) | ((near["time"] == end["time"]) & (near["key"] <= end["key"]))
        drawn, near = near[is_drawn], near[~is_drawn]
        start = float(from_order_bits(np.array([end["time"]], np.uint64))[0])
        logits, keys = (np.ascontiguousarray(drawn[name]) for name in ("logit", "key"))
        again = _events(draws, start, logits, keys, drawn["count"] + 1)
        is_near = again["time"] < np.uint64(until)
        near = joined([near, again[is_near]])
        calendar.push(again[~is_near])
    return ends


def _events(draws: Draws, start: float, logits: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> np.ndarray:
    events = np.empty(len(keys), EVENT)
    events["time"] = order_bits(draws.rings(np.full(len(keys), start), logits, keys, counts))
    events["key"], events["logit"], events["count"] = keys, logits, counts
    return events


def _nth(near: np.ndarray, nth: int, until: int) -> np.void:
    """The ``nth`` event (from 1) of all ranks by time and key; all of ``near`` are before ``until``."""
    low = min(int(first) for first in gather_objects(near["time"].min(initial=np.iinfo(np.uint64).max)))
    shift = max(0, (until - low).bit_length() - _BINS)
    bins = ((near["time"] - np.uint64(low)) >> np.uint64(shift)).astype(np.int64)
    totals = np.cumsum(sum_over_ranks(np.bincount(bins, minlength=1 << _BINS)))
    chosen = int(np.searchsorted(totals, nth))
    mine = np.empty(np.count_nonzero(bins == chosen), _END)
    for name in ("time", "key"):
        mine[name] = near[name][bins == chosen]
    found = np.concatenate(gather_objects(mine))
    rest = nth - (int(totals[chosen - 1]) if chosen else 0)
    return found[np.lexsort((found["key"], found["time"]))[rest - 1]]
