"""Times of things done in turns, so that both sides of a ratio see the same machine, and peak memory."""

from __future__ import annotations

import os
import platform
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


def best_times(repeats: int, *functions: Callable[[], object]) -> list[float]:
    """Seconds of each function's fastest call; the functions take turns."""
    best = [float("inf")] * len(functions)
    for _ in range(repeats):
        for number, function in enumerate(functions):
            start = time.perf_counter()
            function()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


class Peak:
    """``added``: bytes that the block had resident at its peak above what there was before."""

    added = 0
    total = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Peak resident memory of the block, from the kernel's own mark (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark back to what is resident now
    before, peak = _high_water_mark(), Peak()
    yield peak
    peak.total = _high_water_mark()
    peak.added = peak.total - before


def _high_water_mark() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
