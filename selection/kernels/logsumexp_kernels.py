"""The fused kernels themselves: one program for each tile, or programs that stay and go from tile to tile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tile_at(number, num_row_blocks, num_column_blocks, GROUP: tl.constexpr):  # type: ignore[no-untyped-def]
    """Row and column block of a tile, so that GROUP row blocks go through the columns together."""
    first = number // (GROUP * num_column_blocks) * GROUP
    height = min(num_row_blocks - first, GROUP)
    within = number % (GROUP * num_column_blocks)
    return first + within % height, within // height


@triton.jit
def store_sums(  # type: ignore[no-untyped-def]
    products, row_block, column_block, row_ptr, column_ptr, num_rows, num_columns, scale, offset,
    ROW_BLOCK: tl.constexpr, COLUMN_BLOCK: tl.constexpr,
):  # fmt: skip
    """Partial sums of one tile's products."""
    rows = row_block * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    columns = column_block * COLUMN_BLOCK + tl.arange(0, COLUMN_BLOCK)
    values = tl.exp2(products * scale + offset)
    if (row_block + 1) * ROW_BLOCK > num_rows or (column_block + 1) * COLUMN_BLOCK > num_columns:  # a tile at the edge
        values = tl.where((rows < num_rows)[:, None] & (columns < num_columns)[None, :], values, 0.0)
    row_partials = row_ptr + column_block.to(tl.int64) * num_rows + rows
    column_partials = column_ptr + row_block.to(tl.int64) * num_columns + columns
    tl.store(row_partials, tl.sum(values, 1), mask=rows < num_rows)
    tl.store(column_partials, tl.sum(values, 0), mask=columns < num_columns)


@triton.jit
def sum_tile(  # type: ignore[no-untyped-def]
    a_ptr, b_ptr, row_ptr, column_ptr, num_rows, num_columns, depth, a_stride, b_stride, scale, offset,
    ROW_BLOCK: tl.constexpr, COLUMN_BLOCK: tl.constexpr, DEPTH_BLOCK: tl.constexpr, GROUP: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """One program for each tile; ``depth`` is a multiple of DEPTH_BLOCK."""
    num_row_blocks, num_column_blocks = tl.cdiv(num_rows, ROW_BLOCK), tl.cdiv(num_columns, COLUMN_BLOCK)
    row_block, column_block = tile_at(tl.program_id(0), num_row_blocks, num_column_blocks, GROUP)
    rows = row_block * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    columns = column_block * COLUMN_BLOCK + tl.arange(0, COLUMN_BLOCK)
    steps = tl.arange(0, DEPTH_BLOCK)
    a_tile = a_ptr + (rows % num_rows).to(tl.int64)[:, None] * a_stride + steps[None, :]
    b_tile = b_ptr + (columns % num_columns).to(tl.int64)[None, :] * b_stride + steps[:, None]
    products = tl.zeros((ROW_BLOCK, COLUMN_BLOCK), tl.float32)
    for start in range(0, depth, DEPTH_BLOCK):
        left = tl.load(a_tile + start)
        right = tl.load(b_tile + start)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        products = tl.dot(left, right, products)
    store_sums(products, row_block, column_block, row_ptr, column_ptr, num_rows, num_columns, scale, offset,
               ROW_BLOCK, COLUMN_BLOCK)  # fmt: skip


@triton.jit
def sum_tiles(  # type: ignore[no-untyped-def]
    a_ptr, b_ptr, row_ptr, column_ptr, num_rows, num_columns, depth, a_stride, b_stride, scale, offset,
    ROW_BLOCK: tl.constexpr, COLUMN_BLOCK: tl.constexpr, DEPTH_BLOCK: tl.constexpr, GROUP: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    """As many programs as there is room for, each going from tile to tile, which TMA copies (sm_90 and newer).

    ``a`` and ``b`` begin, and have their rows apart, at multiples of 16 bytes.
    """
    a = tl.make_tensor_descriptor(a_ptr, [num_rows, depth], [a_stride, 1], [ROW_BLOCK, DEPTH_BLOCK])
    b = tl.make_tensor_descriptor(b_ptr, [num_columns, depth], [b_stride, 1], [COLUMN_BLOCK, DEPTH_BLOCK])
    num_row_blocks, num_column_blocks = tl.cdiv(num_rows, ROW_BLOCK), tl.cdiv(num_columns, COLUMN_BLOCK)
    for number in tl.range(tl.program_id(0), num_row_blocks * num_column_blocks, tl.num_programs(0), flatten=True):
        row_block, column_block = tile_at(number, num_row_blocks, num_column_blocks, GROUP)
        products = tl.zeros((ROW_BLOCK, COLUMN_BLOCK), tl.float32)
        for start in range(0, depth, DEPTH_BLOCK):
            left = a.load([row_block * ROW_BLOCK, start])
            right = b.load([column_block * COLUMN_BLOCK, start])
            if WIDEN:
                left, right = left.to(tl.float32), right.to(tl.float32)
            products = tl.dot(left, right.T, products)
        store_sums(products, row_block, column_block, row_ptr, column_ptr, num_rows, num_columns, scale, offset,
                   ROW_BLOCK, COLUMN_BLOCK)  # fmt: skip
