"""The sums of the contrastive normaliser in one fused GPU kernel: rows and columns from one pass over the tiles.

Every program multiplies one tile of ``a`` with one of ``b`` (fp16 or bf16 in, float32 accumulation), takes one
exponential per element against the fixed offset that :mod:`selection.kernels.logsumexp` explains, and adds the tile up
both ways. The tiles' partial sums are written, not added atomically, and summed in order, so that a result is the same
each time. Its values are checked in Triton's interpreter on the CPU, its registers, shared memory and instructions by
compiling it for GPUs that are not there; its speed on one is for ``benchmarks/gpu`` to say.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from selection.kernels.logsumexp_kernels import sum_tile, sum_tiles

STRIP_ROWS = 32_768  # rows per launch: partial column sums take STRIP_ROWS / rows of a tile float32 per column
GROUP = 16  # row blocks that go through the columns together, so that tiles of both operands stay in the L2 cache


@dataclass(frozen=True)
class Tile:
    """How one program's share is cut, for GPUs of ``capability`` (major version) and newer.

    ``depth`` features are multiplied at a time, in ``stages`` that are loaded ahead. ``persistent``: by programs that
    stay, of which a GPU has as many as multiprocessors.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    capability: int
    persistent: bool = False


# The first that a GPU is new enough for is taken. It is not tuned while running: ranks that measured differently would
# sum in another order, and a score would depend on how many GPUs there are. A wide tile reads a quarter less from the
# L2 cache, which bounds the speed; the benchmark runs all of them.
TILES = (
    Tile(128, 256, 64, 8, 3, capability=9),
    Tile(256, 128, 64, 8, 3, capability=9),
    Tile(128, 128, 64, 8, 3, capability=8),
)

# Not taken until a GPU has said which is faster: the benchmark runs them beside the others.
PERSISTENT = tuple(replace(tile, persistent=True) for tile in TILES if tile.capability >= 9)


def choose_tile(capability: int) -> Tile:
    """The tile for GPUs of this major version; older ones than any tile asks for get the smallest."""
    return next((tile for tile in TILES if tile.capability <= capability), TILES[-1])


def exp_sums(a: Tensor, b: Tensor, scale: float, offset: float, tile: Tile | None = None) -> tuple[Tensor, Tensor]:
    """Row sums (n,) and column sums (m,), float32, of ``exp(scale * a @ b.T + offset)``.

    Args:
        a, b: (n, d) and (m, d), both fp16 or both bf16, on one GPU (or on the CPU in Triton's interpreter). n, m >= 1.
            A d that is no multiple of 64 is padded with zeros, which costs a copy.
        tile: default: what :func:`choose_tile` takes for the GPU.

    Beside the result it holds partial sums: (m / tile columns) x 32,768 by row and (32,768 / tile rows) x m by column,
    64 MiB in all for m = 32,768 and tiles of 128 x 128.
    """
    if a.dtype != b.dtype or a.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"expected two tensors of fp16 or of bf16, got {a.dtype} and {b.dtype}")
    if a.device != b.device:
        raise ValueError(f"the two tensors are on {a.device} and {b.device}")
    tile = tile or choose_tile(torch.cuda.get_device_capability(a.device)[0] if a.is_cuda else 0)
    a, b = (_padded(part, tile) for part in (a, b))
    row_sums, column_sums = [], None
    with torch.cuda.device(a.device) if a.is_cuda else nullcontext():  # Triton launches on the current device
        for strip in a.split(STRIP_ROWS):
            by_row, by_column = _launch(strip, b, scale, offset, tile)
            row_sums.append(by_row.sum(0))
            of_columns = by_column.sum(0)
            column_sums = of_columns if column_sums is None else column_sums.add_(of_columns)
    assert column_sums is not None
    return torch.cat(row_sums), column_sums


def _padded(rows: Tensor, tile: Tile) -> Tensor:
    """Rows that lie one feature after the other, as many as a multiple of the tile's depth; for TMA at 16 bytes."""
    if missing := -rows.shape[1] % tile.depth:
        return F.pad(rows, (0, missing))
    aligned = not tile.persistent or (rows.stride(0) % 8 == 0 and rows.data_ptr() % 16 == 0)
    return rows if rows.stride(1) == 1 and aligned else rows.contiguous()


def _launch(strip: Tensor, b: Tensor, scale: float, offset: float, tile: Tile) -> tuple[Tensor, Tensor]:
    """The partial sums of one strip of rows: by block of columns and row, by block of rows and column."""
    num_row_blocks, num_column_blocks = triton.cdiv(len(strip), tile.rows), triton.cdiv(len(b), tile.columns)
    by_row = torch.empty(num_column_blocks, len(strip), device=strip.device)
    by_column = torch.empty(num_row_blocks, len(b), device=strip.device)
    kernel, programs = sum_tile, num_row_blocks * num_column_blocks
    if tile.persistent:
        kernel, programs = sum_tiles, min(programs, _multiprocessors(strip.device))
        triton.set_allocator(lambda size, *_: torch.empty(size, dtype=torch.int8, device=strip.device))
    kernel[(programs,)](
        strip, b, by_row, by_column, len(strip), len(b), strip.shape[1], strip.stride(0), b.stride(0),
        scale * math.log2(math.e), offset * math.log2(math.e),
        tile.rows, tile.columns, tile.depth, GROUP,
        WIDEN=not strip.is_cuda,  # the interpreter would take bf16 for whole numbers
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return by_row, by_column


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
