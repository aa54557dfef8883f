"""A queue of events in order of time, of any number: the near ones in memory, the far ones on disk.

Time is cut into buckets; one that is due and has too many events is cut again. So an event is moved a few times,
however many there are. All ranks cut alike and take the same buckets, each with its own events.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clipsift_common.distributed import gather_objects

# time: order bits of the logarithm; logit: of the score alone; count: how often the sample was drawn before.
EVENT = np.dtype([("time", "u8"), ("key", "u8"), ("logit", "f8"), ("count", "i8")])
HELD = 1 << 21  # events held in memory, 32 bytes each
_TOP, _STEP = 48, 8  # bits below the first cut, and how many fewer below each further one
_LISTED = 256  # buckets that ranks tell each other of

_Bucket = tuple[int, int]  # where it starts, and how many bits of time it spans


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Events one after the other."""
    return np.concatenate([np.empty(0, EVENT), *parts], dtype=EVENT)


class Calendar:
    """Events of one rank by time."""

    def __init__(self, folder: Path) -> None:
        """``folder``: empty, this rank's own."""
        self.folder = folder
        self._buckets: dict[_Bucket, list[np.ndarray]] = {}
        self._sizes: dict[_Bucket, int] = {}
        self._spilled: set[_Bucket] = set()
        self._open: list[_Bucket] = []  # those that were cut again, each inside the one before
        self._num_held = 0

    def push(self, events: np.ndarray) -> None:
        """Take events of :data:`EVENT`, none of them before what was pulled last."""
        for start, span in reversed(self._open):
            inside = events["time"] < np.uint64(start + (1 << span))
            self._put(events[inside], span - _STEP)
            events = events[~inside]
        self._put(events, _TOP)
        if self._num_held > HELD:
            self._spill()

    def pull(self, wanted: int, most: int) -> tuple[np.ndarray, int]:
        """This rank's events of the next buckets, at least ``wanted`` events on all ranks, and where the last one ends.

        A collective call. Buckets with more than ``most`` events on all ranks are cut first; those of a single time
        cannot be. Fewer are returned when there are no more, or a large bucket follows.
        """
        while True:
            sizes = self._next_sizes()
            taken, total = [], 0
            while sizes and total < wanted and (sizes[0][1] <= most or sizes[0][0][1] == 0):
                bucket, size = sizes.pop(0)
                taken.append(bucket)
                total += size
            if taken or not sizes:
                start, span = taken[-1]
                self._open = [one for one in self._open if start < one[0] + (1 << one[1])]
                return joined([self._take(bucket) for bucket in taken]), start + (1 << span)
            bucket = sizes[0][0]
            self._open = [one for one in self._open if bucket[0] < one[0] + (1 << one[1])]
            events = self._take(bucket)
            self._open.append(bucket)
            self.push(events)

    def _next_sizes(self) -> list[tuple[_Bucket, int]]:
        """The events of all ranks in each of the next buckets, in order."""
        own = sorted(self._sizes.items())[:_LISTED]
        sizes: dict[_Bucket, int] = {}
        known_to = None  # beyond its last one, a rank that lists many may have others
        for listed in gather_objects(own):
            for bucket, size in listed:
                sizes[bucket] = sizes.get(bucket, 0) + size
            if len(listed) == _LISTED:
                known_to = min(known_to or listed[-1][0], listed[-1][0])
        return sorted((bucket, size) for bucket, size in sizes.items() if known_to is None or bucket <= known_to)

    def _put(self, events: np.ndarray, span: int) -> None:
        """Sort events into buckets of ``span`` bits."""
        if not len(events):
            return
        digits = events["time"] >> np.uint64(span)
        order = np.argsort(digits.astype(np.uint16), kind="stable")  # what is above 16 bits they have in common
        events, digits = events[order], digits[order]
        starts = np.flatnonzero(np.append(True, digits[1:] != digits[:-1]))
        for digit, part in zip(digits[starts], np.split(events, starts[1:])):
            bucket = (int(digit) << span, span)
            self._buckets.setdefault(bucket, []).append(part)
            self._sizes[bucket] = self._sizes.get(bucket, 0) + len(part)
        self._num_held += len(events)

    def _take(self, bucket: _Bucket) -> np.ndarray:
        self._sizes.pop(bucket, None)
        parts = self._buckets.pop(bucket, [])
        self._num_held -= sum(map(len, parts))
        if bucket in self._spilled:
            self._spilled.remove(bucket)
            path = self._path(bucket)
            parts.append(np.fromfile(path, EVENT))
            path.unlink()
        return joined(parts)

    def _spill(self) -> None:
        for bucket, parts in self._buckets.items():
            with open(self._path(bucket), "ab") as file:
                for part in parts:
                    part.tofile(file)
        self._spilled |= self._buckets.keys()
        self._buckets, self._num_held = {}, 0

    def _path(self, bucket: _Bucket) -> Path:
        return self.folder / f"{bucket[0]:016x}-{bucket[1]}"
