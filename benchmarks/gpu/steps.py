"""Part 2: training steps beside open_clip's own loop, what they use of the GPU, and what waits for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
import torch

from benchmarks.gpu.rows import Row, at_least, at_most, measured
from benchmarks.train import SKIPPED, Comparison, ours, step_options

# Arguments of benchmarks/train.py: the recipe's batch on one GPU, without one lever, compiled, and what fits without.
CASES = {
    "ViT-B/32, 4,096, bf16, checkpointing": ["--batch=4096", "--grad-checkpointing"],
    "ViT-B/32, 4,096, bf16, checkpointing, whole contexts": [
        "--batch=4096",
        "--grad-checkpointing",
        "--whole-contexts",
        "--turns=1",
    ],
    "ViT-B/32, 4,096, bf16, checkpointing, compiled": ["--batch=4096", "--grad-checkpointing", "--compile"],
    "ViT-B/32, 2,048, bf16, selective checkpointing": ["--batch=2048", "--grad-checkpointing", "--selective"],
    "ViT-B/32, 1,024, bf16": ["--batch=1024"],
}
LARGE = ["--model=ViT-B-32", "--precision=amp_bf16", "--steps=15", "--turns=2"]
SMALL = ["--model=tiny", "--batch=16", "--steps=8", "--turns=1", "--device=cpu"]
SMALL_CASES: dict[str, list[str]] = {
    "tiny, 16": [],
    "tiny, 16, selective checkpointing": ["--grad-checkpointing", "--selective"],
    "tiny, 16, whole contexts": ["--whole-contexts"],
}


def run(small: bool, folder: Path) -> Iterator[Row]:
    for name, arguments in (SMALL_CASES if small else CASES).items():
        comparison = Comparison(step_options([*(SMALL if small else LARGE), *arguments]))
        best = comparison.best_seconds()
        ratio = best["open_clip"] / best["ours"]
        judged = not small and "whole contexts" not in name
        yield at_least(f"{name}: times open_clip's steps", ratio, 1.25) if judged else measured(name, ratio)
        used = comparison.flops * comparison.options.batch / best["ours"]
        yield measured(f"{name}: share of the bare product", used / comparison.bare_rate())
        if not small:
            yield measured(f"{name}: peak memory, GB", comparison.peak / 1e9)
        waits = Waits()
        ours(comparison.module, comparison.batches, comparison.options, [waits])
        yield at_most(f"{name}: synchronisations a step", waits.a_step, 0.0)


class Waits(L.Callback):
    """Synchronisations of the steps after the first few and before the last, as torch reports them; none on a CPU."""

    def __init__(self) -> None:
        self.counting, self.steps, self.told = ExitStack(), 0, list[warnings.WarningMessage]()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last = int(trainer.num_training_batches) - 1
        if batch_idx == SKIPPED:
            self.told = self.counting.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("warn")
                self.counting.callback(torch.cuda.set_sync_debug_mode, "default")
        elif batch_idx == last - 1:
            self.counting.close()
            self.steps = last - 1 - SKIPPED

    @property
    def a_step(self) -> float:
        return sum("synchroniz" in str(warning.message) for warning in self.told) / self.steps
