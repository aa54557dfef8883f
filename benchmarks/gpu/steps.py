"""Part 2: training steps beside open_clip's own loop, what they use of the GPU, and what waits for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.rows import Row, at_least, at_most, measured
from benchmarks.train import Comparison, ours, step_options

# Arguments of benchmarks/train.py: the recipe's batch on one GPU, the same compiled, what fits without checkpointing.
CASES = {
    "ViT-B/32, 4,096, bf16, checkpointing": ["--batch=4096", "--grad-checkpointing"],
    "ViT-B/32, 4,096, bf16, checkpointing, compiled": ["--batch=4096", "--grad-checkpointing", "--compile"],
    "ViT-B/32, 1,024, bf16": ["--batch=1024"],
}
LARGE = ["--model=ViT-B-32", "--precision=amp_bf16", "--steps=15", "--turns=2"]
SMALL = ["--model=tiny", "--batch=16", "--steps=8", "--turns=1", "--device=cpu"]


def run(small: bool, folder: Path) -> Iterator[Row]:
    cases: dict[str, list[str]] = {"tiny, 16": []} if small else CASES
    for name, arguments in cases.items():
        options = step_options([*LARGE, *arguments] if not small else SMALL)
        comparison = Comparison(options)
        if not small:
            torch.cuda.reset_peak_memory_stats()
        best = comparison.best_seconds()
        ratio = best["open_clip"] / best["ours"]
        yield at_least(f"{name}: times open_clip's steps", ratio, 1.25) if not small else measured(name, ratio)
        used = comparison.flops * options.batch / best["ours"]
        yield measured(f"{name}: share of the bare product", used / comparison.bare_rate())
        if not small:
            yield measured(f"{name}: peak memory, GB", torch.cuda.max_memory_allocated() / 1e9)
            waits = _synchronisations(comparison)
            yield at_most(f"{name}: synchronisations a step", waits, 0.5)


def _synchronisations(comparison: Comparison) -> float:
    """Per step of a run of ours, as torch reports them."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ours(comparison.module, comparison.batches, comparison.options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    told: list[Any] = [warning for warning in caught if "synchroniz" in str(warning.message)]
    return max(0, len(told) - 5) / comparison.options.steps  # the first and last step may wait
