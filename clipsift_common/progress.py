"""Live progress on long work: rate, time to finish, and counts of what was skipped. Quiet on ranks other than 0."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cache
from types import TracebackType
from typing import TypeVar

from rich.console import Console

from clipsift_common.distributed import barrier, on_rank_zero, rank

logger = logging.getLogger("clipsift")

T = TypeVar("T")

TERMINAL_PERIOD = 0.2  # seconds between redraws of the line in a terminal
FILE_WIDTH = 140  # columns of a table that is printed into a file
LOG_PERIOD = 15.0  # seconds between lines when the output is a file


def format_duration(seconds: float) -> str:
    """``75`` -> ``1:15``; hours appear when there are any."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{secs:02d}" if hours else f"{minutes}:{secs:02d}"


def make_console() -> Console:
    """Where tables are printed: as wide as the terminal, or as a table needs when the output is a file."""
    return Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)


def say(text: str) -> None:
    """Print on rank 0, when all ranks are here."""
    barrier()
    on_rank_zero(lambda: print(text))


@cache
def log_once(line: str, level: int = logging.INFO) -> None:
    """Log a line, unless this process has done so before."""
    logger.log(level, line)


def format_count(value: float) -> str:
    """``1234`` -> ``1,234``; small rates keep two digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


class Progress:
    """One line that says how far a stage is.

    Args:
        label: what is being done, in a word or two.
        total: number of units in all, or None when unknown.
        unit: what is counted (``samples``, ``steps`` ...).
        brief: nothing is said of work that is over before its first line is due.
    """

    def __init__(self, label: str, total: int | None, unit: str = "samples", brief: bool = False) -> None:
        self.label, self.total, self.unit, self.brief = label, total, unit, brief
        self.done = 0
        self.notes: dict[str, object] = {}
        self._start = self._shown = time.monotonic()
        self._resumed = 0
        self._active = rank() == 0
        self._terminal = sys.stderr.isatty()
        self._width = 0

    def resume(self, done: int) -> None:
        """Say that ``done`` units were there before this run; they do not count towards the rate."""
        self.done = self._resumed = done

    def advance(self, count: int = 1, **notes: object) -> None:
        """Add ``count`` units; ``notes`` (loss, skipped ...) are shown beside the rate, the last value of each."""
        self.done += count
        self.notes.update(notes)
        now = time.monotonic()
        if self._active and now - self._shown >= (TERMINAL_PERIOD if self._terminal else LOG_PERIOD):
            self._shown = now
            self._show(end="\r" if self._terminal else "\n")

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        rate = (self.done - self._resumed) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self.label}: {self.done:,}" + (f"/{self.total:,}" if self.total is not None else "")]
        if self.total:
            parts[0] += f" ({self.done / self.total:.0%})"
        parts.append(f"{format_count(rate)} {self.unit}/s")
        if self.total is not None and rate > 0 and self.done < self.total:
            parts.append(f"ETA {format_duration((self.total - self.done) / rate)}")
        else:
            parts.append(format_duration(elapsed))
        parts += [f"{name} {value}" for name, value in self.notes.items()]
        return " | ".join(parts)

    def _show(self, end: str) -> None:
        line = self._line()
        padding = " " * max(0, self._width - len(line))
        self._width = len(line)
        print(line + padding, end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Print the last state."""
        if self._active and not (self.brief and self._shown == self._start):
            self._show(end="\n")
        self._active = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def track(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "items", brief: bool = False
) -> Iterator[T]:
    """Iterate over ``items`` with a progress line."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with Progress(label, total, unit, brief) as progress:
        for item in items:
            yield item
            progress.advance()
