"""The sums of the contrastive normaliser in one fused GPU kernel: rows and columns from one pass over the tiles.

Every program multiplies one tile of ``a`` with one of ``b`` (fp16 or bf16 in, float32 accumulation), takes one
exponential per element against the fixed offset that :mod:`selection.kernels.logsumexp` explains, and adds the tile up
both ways. The tiles' partial sums are written, not added atomically, and summed in order, so that a result is the same
each time. Written without a GPU at hand: its values are checked in Triton's interpreter on the CPU, its speed
is not known.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

ROW_BLOCK = COLUMN_BLOCK = 128  # of a tile; float32 accumulators take 64 registers of each of 256 threads
DEPTH_BLOCK = 64  # features per step; three stages of both operands are 96 KiB of shared memory
GROUP = 8  # row blocks that go through the columns together, so that tiles of both operands stay in the L2 cache
STRIP_ROWS = 16_384  # rows per launch: partial column sums take STRIP_ROWS / ROW_BLOCK float32 per column


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    a_ptr, b_ptr, row_ptr, column_ptr, num_rows, num_columns, depth, a_stride, b_stride, scale, offset,
    ROW_BLOCK: tl.constexpr, COLUMN_BLOCK: tl.constexpr, DEPTH_BLOCK: tl.constexpr, GROUP: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    num_row_blocks = tl.cdiv(num_rows, ROW_BLOCK)
    num_column_blocks = tl.cdiv(num_columns, COLUMN_BLOCK)
    program = tl.program_id(0)
    first = program // (GROUP * num_column_blocks) * GROUP
    height = min(num_row_blocks - first, GROUP)
    within = program % (GROUP * num_column_blocks)
    row_block, column_block = first + within % height, within // height

    rows = row_block * ROW_BLOCK + tl.arange(0, ROW_BLOCK)
    columns = column_block * COLUMN_BLOCK + tl.arange(0, COLUMN_BLOCK)
    steps = tl.arange(0, DEPTH_BLOCK)
    a_tile = a_ptr + (rows % num_rows).to(tl.int64)[:, None] * a_stride + steps[None, :]
    b_tile = b_ptr + (columns % num_columns).to(tl.int64)[None, :] * b_stride + steps[:, None]
    products = tl.zeros((ROW_BLOCK, COLUMN_BLOCK), tl.float32)
    for start in range(0, depth, DEPTH_BLOCK):
        inside = start + steps < depth
        left = tl.load(a_tile + start, mask=inside[None, :], other=0.0)
        right = tl.load(b_tile + start, mask=inside[:, None], other=0.0)
        if WIDEN:
            left, right = left.to(tl.float32), right.to(tl.float32)
        products = tl.dot(left, right, products)

    values = tl.exp2(products * scale + offset)
    values = tl.where((rows < num_rows)[:, None] & (columns < num_columns)[None, :], values, 0.0)
    row_partials = row_ptr + column_block.to(tl.int64) * num_rows + rows
    column_partials = column_ptr + row_block.to(tl.int64) * num_columns + columns
    tl.store(row_partials, tl.sum(values, 1), mask=rows < num_rows)
    tl.store(column_partials, tl.sum(values, 0), mask=columns < num_columns)


def exp_sums(a: Tensor, b: Tensor, scale: float, offset: float) -> tuple[Tensor, Tensor]:
    """Row sums (n,) and column sums (m,), float32, of ``exp(scale * a @ b.T + offset)``.

    Args:
        a, b: (n, d) and (m, d), both fp16 or both bf16, on a GPU (or on the CPU in Triton's interpreter). n, m >= 1.

    Beside the result it holds (m / 128) x 16,384 partial row sums and 128 x m partial column sums: 33 MiB in all for
    m = 32,768.
    """
    if a.dtype != b.dtype or a.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"expected two tensors of fp16 or of bf16, got {a.dtype} and {b.dtype}")
    a, b = (part if part.stride(1) == 1 else part.contiguous() for part in (a, b))
    num_columns = len(b)
    num_column_blocks = triton.cdiv(num_columns, COLUMN_BLOCK)
    row_sums, column_sums = [], torch.zeros(num_columns, device=a.device)
    for strip in a.split(STRIP_ROWS):
        num_row_blocks = triton.cdiv(len(strip), ROW_BLOCK)
        by_row = torch.empty(num_column_blocks, len(strip), device=a.device)
        by_column = torch.empty(num_row_blocks, num_columns, device=a.device)
        _kernel[(num_row_blocks * num_column_blocks,)](
            strip, b, by_row, by_column, len(strip), num_columns, a.shape[1], strip.stride(0), b.stride(0),
            scale * math.log2(math.e), offset * math.log2(math.e),
            ROW_BLOCK, COLUMN_BLOCK, DEPTH_BLOCK, GROUP,
            WIDEN=not a.is_cuda,  # the interpreter would take bf16 for whole numbers
            num_warps=8, num_stages=3,
        )  # fmt: skip
        row_sums.append(by_row.sum(0))
        column_sums += by_column.sum(0)
    return torch.cat(row_sums), column_sums
