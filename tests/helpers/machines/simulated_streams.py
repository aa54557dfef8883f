"""Streams of a GPU that is not there: what runs beside what, and the two ways in which that goes wrong.

Every piece of work belongs to the stream it was started in. A piece that reads what another stream makes must come
after it, by an event waited for; and memory goes back to the stream it was made in, so that it must not be let go of
while another one uses it, unless the allocator was told (``record_stream``). Both are noted in ``races``.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch._dynamo  # noqa: F401 - a first call of it may come later, and it inherits from what is replaced here


class Stream:
    def __init__(self, name: str) -> None:
        self.name, self.started = name, 0  # pieces of work
        self.comes_after: dict[Stream, int] = {}  # how much of another stream's work is over when the next piece begins

    def wait_event(self, event: Event) -> None:
        assert event.stream is not None, "an event that was not recorded holds nothing up"
        self.comes_after[event.stream] = max(event.after, self.comes_after.get(event.stream, 0))


class Event:
    stream: Stream | None = None

    def record(self, stream: Stream) -> None:
        self.stream, self.after = stream, stream.started


class Memory:
    """A tensor's: the piece of work that fills it, who uses it, and of whom the allocator knows."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.filled = stream, stream.started
        self.users, self.known = set[Stream](), {stream}


class Streams:
    """``log``: (operation, name of its stream), in the order they were started."""

    def __init__(self) -> None:
        self.main = self.current = Stream("main")
        self.log: list[tuple[str, str]] = []
        self.races: list[str] = []
        names = {
            "Stream": self._new,
            "Event": Event,
            "stream": self._use,
            "current_stream": lambda device: self.current,
        }
        self.patches = mock.patch.multiple("torch.cuda", **names)

    def started(self, name: str, operands: Sequence[Any], results: Sequence[Any]) -> None:
        """A piece of work in the current stream."""
        self.current.started += 1
        self.log.append((name, self.current.name))
        for memory in (operand.memory for operand in operands if operand.memory):
            memory.users.add(self.current)
            if memory.stream is not self.current and self.current.comes_after.get(memory.stream, 0) < memory.filled:
                self.races.append(f"{name} in {self.current.name} does not wait for what {memory.stream.name} makes")
        for result in results:
            if self.current is not self.main and result.memory is None:
                result.memory = Memory(self.current)
                weakref.finalize(result, self._let_go, result.memory)

    def _let_go(self, memory: Memory) -> None:
        for stream in memory.users - memory.known:
            self.races.append(f"memory of {memory.stream.name} is free while {stream.name} uses it")

    def _new(self, device: Any) -> Stream:
        return Stream("side")

    @contextmanager
    def _use(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before
