"""Part 1: the fused kernel's values, that they repeat, and its rate beside a bare half-precision product."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.rows import Row, at_least, at_most, holds, measured
from selection.kernels.logsumexp import contrastive_normaliser

SIZES = (127, 4_097, 16_385, 32_768)
DEPTHS = (512, 640, 768, 1_024)
DTYPES = (torch.float16, torch.bfloat16)
TEMPERATURES = (0.01, 0.07)
TOLERANCE = 5e-5  # of a log-sum-exp, absolute: 5e-7 of a score at temperature 0.01
STRIP = 2_048  # rows of the float64 matrix at a time


def features(count: int, depth: int, dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, depth, generator=generator), dim=1).to(device, dtype)


def exact(image: Tensor, text: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both log-sum-exps in float64, a strip of rows at a time."""
    rows, columns = [], torch.full((len(text),), -torch.inf, dtype=torch.float64, device=image.device)
    for strip in image.double().split(STRIP):
        logits = strip @ text.double().T / temperature
        rows.append(logits.logsumexp(1))
        columns = torch.logaddexp(columns, logits.logsumexp(0))
    return torch.cat(rows), columns


def seconds(function: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Of the fastest call, the device waited for."""
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run(small: bool, folder: Path) -> Iterator[Row]:
    device = torch.device("cpu" if small else "cuda")
    sizes, depths = ((127, 1_025), (64, 80)) if small else (SIZES, DEPTHS)
    for size, depth in itertools.product(sizes, depths):
        worst, repeats = 0.0, True
        for dtype, temperature in itertools.product(DTYPES, TEMPERATURES):
            image, text = (features(size, depth, dtype, device, seed) for seed in (0, 1))
            found, again = (contrastive_normaliser(image, text, temperature) for _ in range(2))
            for one, other, expected in zip(found, again, exact(image, text, temperature)):
                worst = max(worst, (one.double() - expected).abs().max().item())
                repeats &= torch.equal(one, other)
        yield at_most(f"n {size:,}, d {depth}: largest error of a log-sum-exp", worst, TOLERANCE)
        yield holds(f"n {size:,}, d {depth}: the same bits again", repeats)
    yield from _rates(small, device)


def _rates(small: bool, device: torch.device) -> Iterator[Row]:
    size, depth = (1_024, 64) if small else (32_768, 768)
    image, text = (features(size, depth, torch.float16, device, seed) for seed in (0, 1))
    halves = image.bfloat16(), text.bfloat16()
    product = seconds(lambda: halves[0] @ halves[1].T, device)
    whole = seconds(lambda: contrastive_normaliser(image, text, 0.01), device)
    dense = seconds(lambda: _dense(image, text, 0.01), device)
    operations = 2 * size * size * depth
    yield measured("bare bf16 product, TFLOP/s", operations / product / 1e12)
    yield measured("whole normaliser, TFLOP/s", operations / whole / 1e12)
    if not small:
        yield from _kernel_rates(image, text, product)
        yield at_least("times the dense fp32 form", dense / whole, 10)
    else:
        yield measured("times the dense fp32 form", dense / whole)


def _kernel_rates(image: Tensor, text: Tensor, product: float) -> Iterator[Row]:
    from selection.kernels.logsumexp_triton import PERSISTENT, TILES, choose_tile, exp_sums  # here: needs Triton

    capability, expected = torch.cuda.get_device_capability()[0], exp_sums(image, text, 100.0, -40.0)
    for tile in (tile for tile in TILES + PERSISTENT if tile.capability <= capability):
        share = product / seconds(lambda tile=tile: exp_sums(image, text, 100.0, -40.0, tile), image.device)  # type: ignore[misc]
        kind = "persistent kernel" if tile.persistent else "kernel"
        name = f"{kind} with tiles of {tile.rows} x {tile.columns}, share of the bf16 product"
        yield at_least(name, share, 0.6) if tile == choose_tile(capability) else measured(name, share)
        found = exp_sums(image, text, 100.0, -40.0, tile)
        worst = max(((one - other) / other).abs().max().item() for one, other in zip(found, expected))
        yield at_most(f"{kind} with tiles of {tile.rows} x {tile.columns}: largest relative difference", worst, 1e-5)


def _dense(image: Tensor, text: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """As the authors' code has it: the whole matrix in float32."""
    logits = image.float() @ text.float().T / temperature
    return logits.logsumexp(1), logits.logsumexp(0)
