"""Shared memory for the pixels of batches, used again and again: what DataLoader allocates anew for every batch."""

from __future__ import annotations

import itertools
import math
import os
import weakref
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from clipsift_common.errors import ClipsiftError, first_line

PREFETCH = 2  # batches that a worker makes ahead


class Slots:
    """Room for batches, in memory that the workers of a loader share with the process that trains.

    The system zeroes and maps fresh shared memory page by page, which takes about a tenth of the time of decoding. A
    slot is given back when the last tensor that looks at it is gone, however long somebody holds on to a batch. There
    are as many as DataLoader has under way, one that is trained on and one that is just let go; should they not
    suffice, :meth:`take` gives none and nobody waits.

    It travels to the workers with the dataset; what they send back is a :class:`Slot`.

    Args:
        workers: number of worker processes.
        shape: (b, h, w, 3), of one batch of uint8.

    Raises:
        ClipsiftError: when there is not as much shared memory.
    """

    _here: ClassVar[weakref.WeakValueDictionary[int, Slots]] = weakref.WeakValueDictionary()
    _count: ClassVar = itertools.count()

    def __init__(self, workers: int, shape: tuple[int, ...]) -> None:
        count = self.count(workers)
        try:
            # What share_memory_ does, without filling it from a tensor that is empty: 40 times as fast.
            memory = torch.UntypedStorage._new_shared(count * math.prod(shape))
        except RuntimeError as error:
            raise ClipsiftError(
                f"/dev/shm has no room for {count} batches of {math.prod(shape) / 1e6:,.0f} MB on their way from "
                f"{workers} workers ({first_line(error)}); give it more (docker run --shm-size) or fewer data.workers"
            ) from error
        self._batches = torch.empty(0, dtype=torch.uint8).set_(memory).view(count, *shape)
        self._taken = torch.zeros(count, dtype=torch.bool).share_memory_()
        self._taking = torch.multiprocessing.get_context().Lock()
        self._owner = os.getpid()
        self._number = next(self._count)
        self._here[self._number] = self

    @staticmethod
    def count(workers: int) -> int:
        """How many there are for so many workers."""
        return workers * PREFETCH + 2 if workers else 0

    def take(self) -> Slot | None:
        """A free slot, or None."""
        with self._taking:
            free = (~self._taken).nonzero()
            if not len(free):
                return None
            place = int(free[0])
            self._taken[place] = True
        return Slot(self._number, place)

    def array(self, slot: Slot) -> np.ndarray:
        """The memory of ``slot``, to be written by who has taken it."""
        return self._batches[slot.place].numpy()

    def give_back(self, slot: Slot) -> None:
        """Nobody needs what is in ``slot``."""
        if os.getpid() == self._owner:  # a forked process that drops its copy of a batch does not speak for this one
            self._taken[slot.place] = False


@dataclass(frozen=True)
class Slot:
    """Where a worker has left a batch: all that has to be sent."""

    slots: int
    place: int

    def tensor(self) -> torch.Tensor:
        """The batch, (b, 3, h, w), in the process that made the slots; free again when nothing looks at it any more."""
        slots = Slots._here[self.slots]
        array = slots.array(self)
        weakref.finalize(array, slots.give_back, self)
        return torch.from_numpy(array).permute(0, 3, 1, 2)

    def pin_memory(self) -> torch.Tensor:
        """A copy in pinned memory: what DataLoader asks for when it pins batches."""
        return self.tensor().pin_memory()
