"""Matrix products in float32, a tile at a time: of float32, or on a GPU of the 16-bit features as they are.

The product of two halves is exact in float32, and tensor cores add it up there: the same value as of the converted
features but for the order of the sum, without their float32 copy and an order of magnitude faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from selection.kernels.tiles import ROW_TILE_GPU, tile_map, tiles

HALVES = (torch.float16, torch.bfloat16)
PRODUCT_TILE_CPU = (512, 1024)  # rows, columns of a float32 product tile: 2 MiB, which a core's cache about holds
PRODUCT_TILE_GPU = (4096, 8192)  # 128 MiB


def product_tile(device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile of a matrix product on ``device``."""
    return PRODUCT_TILE_CPU if device.type == "cpu" else PRODUCT_TILE_GPU


def row_tiles(queries: Tensor) -> list[slice]:
    """``queries`` (n, d) cut into strips as high as a tile of a product."""
    return tiles(len(queries), product_tile(queries.device)[0])


def whole_row_tiles(num_rows: int, num_columns: int, device: torch.device) -> list[slice]:
    """``range(num_rows)`` cut so that a strip's product with all columns at once is of a bounded size."""
    highest, numbers = (1024, 1 << 22) if device.type == "cpu" else (ROW_TILE_GPU, 1 << 28)  # 16 MiB, 1 GiB
    return tiles(num_rows, max(1, min(highest, numbers // num_columns)))


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a @ b`` (n, m) in float32 of ``a`` (n, d) and ``b`` (d, m), any floating dtypes; written into ``out`` if given.

    Inside :func:`selection.kernels.tiles.tile_map`, which sees to full precision.
    """
    if a.is_cuda and a.dtype == b.dtype and a.dtype in HALVES:
        return torch.mm(a, b, out_dtype=torch.float32, out=out)
    return torch.mm(a.float(), b.float(), out=out)


def split_for(features: Tensor, matrix: Tensor) -> list[Tensor]:
    """Matrices whose sum is ``matrix``, float32, and which :func:`multiply` takes beside ``features`` as they are.

    Beside halves on a GPU: halves, each of what rounding left of the ones before, 22 bits in all for fp16 and 24 for
    bf16; a few of their products are still several times faster than one in float32. Else ``matrix`` itself.
    """
    if not (features.is_cuda and features.dtype in HALVES):
        return [matrix]
    parts, rest = [], matrix
    for _ in range(2 if features.dtype == torch.float16 else 3):
        parts.append(rest.to(features.dtype))
        rest = rest - parts[-1].float()
    return parts


def product_tiles(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield each slice of ``keys`` (m, d) with the float32 product of ``queries`` (q, d), a strip, with it, (q, slice).

    Each product is gone with the next one: all are computed in the same memory, because a fresh megabyte a tile costs
    more, in pages to be mapped, than what is done with the product.
    """
    if not queries.is_cuda:
        queries = queries.float()  # once, not for each tile
    column_tile = product_tile(queries.device)[1]
    buffer = queries.new_empty(len(queries) * min(column_tile, len(keys)), dtype=torch.float32)
    for part in tiles(len(keys), column_tile):
        size = part.stop - part.start
        yield part, multiply(queries, keys[part].T, buffer[: len(queries) * size].view(len(queries), size))


def product_sums(
    a: Tensor, b: Tensor, transform: Callable[[Tensor], Tensor], scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Row sums (n,) and column sums (m,) of ``transform(scale * a @ b.T)`` for ``a`` (n, d) and ``b`` (m, d), float32.

    ``transform`` is elementwise and may work in place. The (n, m) product is never held.
    """

    def strip(rows: slice) -> tuple[Tensor, Tensor]:
        queries = a[rows] if scale == 1 else a[rows].float() * scale
        row_sums, column_sums = (torch.zeros(size, device=a.device) for size in (len(queries), len(b)))
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
