"""Units of work and the two ways to share them that need nothing else: by the ranks of a group, and by part.

A *unit* is something that pickles: a block of score files, a cluster, a class. What is made of one is a file, written
atomically, that depends on the unit and on nothing else: no rank, no part and no order is in it. So it does not matter
who makes it, how often, or whether somebody was killed on the way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from clipsift_common.distributed import barrier, rank, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import Progress

T = TypeVar("T")

EngineName = Literal["group", "ray"]
"""Who embeds and scores: the processes of this launch, or the workers of a Ray cluster."""


def one(unit: object) -> int:
    """The size of units that count alike."""
    return 1


class Engine(Protocol):
    """Does units of work."""

    def do(
        self,
        label: str,
        units: Sequence[T],
        make: Callable[[T], object],
        is_made: Callable[[T], bool],
        size: Callable[[T], int] = one,
        counted: str = "units",
    ) -> None:
        """Make what is not made yet; afterwards all of it is there (of a :class:`Part`, its share).

        Args:
            label, counted: what is done, and what ``size`` counts, for the progress line.
            units: the same list for every process of a group.
            make: leaves a unit's file, or an error that ends the step. It may hold what all units need.
            is_made: whether the file is there.

        Raises:
            ClipsiftError: the first that ``make`` raises.
        """


class _Sharing:
    """Processes that make their own share of the units, in order."""

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """This process's, of ``units``."""
        raise NotImplementedError

    def do(
        self,
        label: str,
        units: Sequence[T],
        make: Callable[[T], object],
        is_made: Callable[[T], bool],
        size: Callable[[T], int] = one,
        counted: str = "units",
    ) -> None:
        """See :class:`Engine`."""
        mine = self.share(units)
        with Progress(label, sum(map(size, mine)), counted) as progress:
            for unit in mine:
                if is_made(unit):
                    progress.resume(progress.done + size(unit))
                else:
                    make(unit)
                    progress.advance(size(unit))
        self._meet()

    def _meet(self) -> None:
        """Wait for the processes that what comes next needs; none, unless it is said."""


@dataclass(frozen=True)
class Group(_Sharing):
    """The processes of this launch, each with its share; one process without a group. ``do`` is a collective call."""

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """This process's, of ``units``."""
        return units[rank() :: world_size()]

    def _meet(self) -> None:
        barrier()


@dataclass(frozen=True)
class Part(_Sharing):
    """Part ``number``, from 1, of ``total``: a process that knows of no other does its share and ends."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """The part that ``3/200`` is. Raises :class:`ClipsiftError` for anything that is none."""
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ClipsiftError(f"part: {text!r} is no part; give NUMBER/TOTAL from 1/TOTAL to TOTAL/TOTAL, as 3/200")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def share(self, units: Sequence[T]) -> Sequence[T]:
        """This part's, of ``units``."""
        return units[self.number - 1 :: self.total]


GROUP = Group()


def part_of(position: int, total: int) -> Part:
    """Which of ``total`` parts has the unit at ``position`` of the list."""
    return Part(position % total + 1, total)
