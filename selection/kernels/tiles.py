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
PRODUCT_TILE_CPU = (512, 1024)  # rows, columns of a float32 product tile: 2 MiB, which a core's cache about holds
PRODUCT_TILE_GPU = (4096, 8192)  # 128 MiB


def product_tile(device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile of a matrix product on ``device``."""
    return PRODUCT_TILE_CPU if device.type == "cpu" else PRODUCT_TILE_GPU


def row_tiles(queries: Tensor) -> list[slice]:
    """``queries`` (n, d) cut into strips as high as a tile of a product."""
    return tiles(len(queries), product_tile(queries.device)[0])


def product_tiles(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield each slice of ``keys`` (m, d) with the float32 product of ``queries`` (q, d), a strip, with it, (q, slice).

    Each product is gone with the next one: all are computed in the same memory, because a fresh megabyte a tile costs
    more, in pages to be mapped, than what is done with the product.
    """
    column_tile = product_tile(queries.device)[1]
    buffer = queries.new_empty(len(queries) * min(column_tile, len(keys)))
    for part in tiles(len(keys), column_tile):
        size = part.stop - part.start
        products = buffer[: len(queries) * size].view(len(queries), size)
        yield part, torch.mm(queries, keys[part].float().T, out=products)


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

    with _full_precision():
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


def product_sums(
    a: Tensor, b: Tensor, transform: Callable[[Tensor], Tensor], scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Row sums (n,) and column sums (m,) of ``transform(scale * a @ b.T)`` for ``a`` (n, d) and ``b`` (m, d), float32.

    ``transform`` is elementwise and may work in place. The (n, m) product is never held.
    """

    def strip(rows: slice) -> tuple[Tensor, Tensor]:
        queries = a[rows].float() * scale
        row_sums, column_sums = queries.new_zeros(len(queries)), queries.new_empty(len(b))
        for part, products in product_tiles(queries, b):
            values = transform(products)
            row_sums += values.sum(1)
            torch.sum(values, 0, out=column_sums[part])
        return row_sums, column_sums

    row_parts, column_sums = [], torch.zeros(len(b), device=b.device)
    for of_rows, of_columns in tile_map(strip, row_tiles(a), a.device):
        row_parts.append(of_rows)
        column_sums += of_columns
    return torch.cat(row_parts), column_sums


@contextmanager
def _full_precision() -> Iterator[None]:
    """TF32 or bf16 products put an error near 1e-3 into a cosine, and s-CLIPLoss multiplies it by 100."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
