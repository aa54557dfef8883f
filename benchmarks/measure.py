"""Times of things done in turns, so that both sides of a ratio see the same machine, and peak memory."""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch


def describe_machine() -> str:
    """Cores, load and versions: what a number means nothing without."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    return (
        f"{model}, {cores} cores, {threads} torch threads, load {os.getloadavg()[0]:.1f} at the start, "
        f"torch {torch.__version__}, numpy {np.__version__}"
    )


def best_times(
    repeats: int, *functions: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds by ``clock`` of each function's fastest call; the functions take turns."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for number, function in enumerate(functions):
            start = clock()
            function()
            best[number] = min(best[number], clock() - start)
    return best


class Peak:
    """Bytes that a block had resident at its peak.

    ``added``: above what there was before; ``total``: in all; ``anonymous``: in all, without pages of mapped files,
    which the system takes back when it needs them (looked at twenty times a second).
    """

    added = 0
    total = 0
    anonymous = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Peak resident memory of the block, from the kernel's own mark (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark back to what is resident now
    before, peak, over = _status("VmHWM"), Peak(), threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            peak.anonymous = max(peak.anonymous, _status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        peak.total = _status("VmHWM")
        peak.added = peak.total - before


def _status(entry: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024
