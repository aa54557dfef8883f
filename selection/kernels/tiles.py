"""Work cut into tiles: memory stays bounded, and a result does not depend on the number of threads.

A threaded matrix product cuts its operands by the number of threads, and the cut decides in which order a sum is
taken: the last bits of a score would then depend on the machine, and with them the order of two near-equal samples.
Here the cut is fixed, every tile is computed by one thread, and tiles are combined in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")
Result = TypeVar("Result")

ROW_TILE = 1024  # rows per tile of work that is linear in the rows
ROW_TILE_GPU = 65_536  # there the starts of many small pieces would take longer than the work


def linear_tiles(num_rows: int, device: torch.device) -> list[slice]:
    """``range(num_rows)`` cut for work that is linear in the rows, on ``device``."""
    return tiles(num_rows, ROW_TILE if device.type == "cpu" else ROW_TILE_GPU)


def tiles(total: int, size: int) -> list[slice]:
    """``range(total)`` cut into the fewest slices (at least one) of at most ``size``, lengths equal or one apart."""
    count = max(1, -(-total // size))
    return [slice(total * i // count, total * (i + 1) // count) for i in range(count)]


def tile_map(function: Callable[[Part], Result], parts: Sequence[Part], device: torch.device) -> Iterator[Result]:
    """``function(part)`` of each part, in order; on the CPU one thread per part, as many at once as torch would use.

    Products inside are full float32, whatever precision was set for training.
    """

    def call(part: Part) -> Result:
        with torch.no_grad():  # per thread, so not the caller's
            return function(part)

    with full_precision():
        num_threads = torch.get_num_threads()
        if device.type != "cpu" or num_threads == 1:
            yield from map(call, parts)
        elif len(parts) == 1:  # for small work a pool costs more than the work
            with _one_thread():
                result = call(parts[0])
            yield result
        else:
            yield from _threaded_map(call, parts, num_threads)


def fill_rows(out: Tensor, function: Callable[[slice], Tensor], parts: Sequence[slice]) -> Tensor:
    """Write ``function(part)`` into ``out[part]`` for each of ``parts``, by :func:`tile_map`; returns ``out``.

    In place, because small results that stay between the large tiles of the work would keep malloc from using the
    tiles' memory again: half a million rows then cost as much as their float32 copy.
    """

    def fill(part: slice) -> None:
        out[part] = function(part)

    for _ in tile_map(fill, parts, out.device):
        pass
    return out


def _threaded_map(call: Callable[[Part], Result], parts: Sequence[Part], num_threads: int) -> Iterator[Result]:
    pool = ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(call, parts)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(num_threads)  # the workers' setting is also what later threads would start from


@contextmanager
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


@contextmanager
def full_precision() -> Iterator[None]:
    """The block's float32 products are float32.

    TF32 or bf16 products put an error near 1e-3 into a cosine, and s-CLIPLoss multiplies it by 100.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
