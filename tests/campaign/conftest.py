"""Every variant has bounded time and memory."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

SECONDS = 30
BYTES = 1 << 30  # more than there are before


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, limits[1]))
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, limits)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """What an unpickled trap would make; it must not be there in the end."""
    place = tmp_path / "sprung"
    yield place
    assert not place.exists(), "something was unpickled"
