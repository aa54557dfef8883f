"""Things that follow each other, taken together until they are large enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def grouped(things: Iterable[T], sizes: Iterable[int], least: int) -> tuple[list[list[T]], int]:
    """Groups of consecutive ``things``, each of ``least`` in size (0: one thing each) but the last, and its size."""
    groups: list[list[T]] = []
    size = least
    for thing, more in zip(things, sizes):
        if size >= least:
            groups.append([])
            size = 0
        groups[-1].append(thing)
        size += more
    return groups, size
