"""A part of the program, measured in processes of its own: time, CPU time, peak anonymous memory."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.measure import peak_memory
from clipsift_common.quiet import quiet_libraries


@dataclass(frozen=True)
class Part:
    """What is measured: functions of a module, as other processes must find them by name.

    Args:
        prepare: makes data of so many rows in a folder; not measured.
        run: does the work on them, on every process of the group; what it returns on rank 0 is printed.
        rows: sizes to measure by default.
        processes: of the group, by default.
    """

    prepare: Callable[[int, Path], None]
    run: Callable[[int, Path], object]
    rows: Sequence[int]
    processes: int = 1


@dataclass(frozen=True)
class Measured:
    """One size: seconds by the clock, CPU seconds of all processes, the largest process's anonymous bytes."""

    rows: int
    seconds: float
    cpu: float
    anonymous: int
    said: object

    def __str__(self) -> str:
        said = "" if self.said is None else f"; {self.said}"
        return (
            f"{self.rows:,} rows: {self.seconds:.1f} s, CPU {self.cpu:.1f} s, "
            f"{self.anonymous / 1e9:.2f} GB anonymous{said}"
        )


def measure(part: Part, rows: int, processes: int, folder: Path | None = None) -> Measured:
    """Prepare and run ``part`` in fresh processes of one thread each; raises RuntimeError when one of them fails."""
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory(dir=folder) as name:
        results = context.SimpleQueue()
        data = Path(name) / "data"
        data.mkdir()
        _wait([context.Process(target=part.prepare, args=(rows, data))])
        meeting = f"file://{name}/meeting"
        arguments = [(part, rows, data, meeting, rank, processes, results) for rank in range(processes)]
        _wait([context.Process(target=_as_rank, args=given) for given in arguments])
        found = sorted((results.get() for _ in range(processes)), key=lambda result: result[0])
    seconds, cpu, anonymous = (list(values) for values in list(zip(*found))[1:4])
    return Measured(rows, max(seconds), sum(cpu), max(anonymous), found[0][4])


def exponent(rows: Sequence[int], values: Sequence[float]) -> float:
    """The power of ``rows`` that ``values`` grow with: the slope of a line through their logarithms."""
    return float(np.polyfit([math.log(row) for row in rows], [math.log(max(value, 1e-3)) for value in values], 1)[0])


def _wait(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"processes ended with {[process.exitcode for process in processes]}")


def _as_rank(
    part: Part, rows: int, data: Path, meeting: str, rank: int, world: int, results: multiprocessing.SimpleQueue
) -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    with peak_memory() as peak:
        start, used = time.perf_counter(), time.process_time()
        said = part.run(rows, data)
        seconds, cpu = time.perf_counter() - start, time.process_time() - used
    results.put((rank, seconds, cpu, peak.anonymous, said))
    if world > 1:
        dist.destroy_process_group()
