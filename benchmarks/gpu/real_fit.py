"""Part 3: a fit on JPEGs from shards: its rate, its waiting, and that the device sees the batches of the data set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from benchmarks.gpu.pools import architecture, make_pool
from benchmarks.gpu.rows import Row, at_most, holds, measured
from clipsift_common.launch import launch
from clipsift_common.machine import Machine
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from training.data import PoolDataModule
from training.fit import make_fit_trainer
from training.guard import Guard
from training.loading.loader import GlobalBatchLoader
from training.loading.transform import Decode
from training.metrics import Metrics
from training.model import CLIPModule
from training.supervisor import Supervisor

COMPARED = 100  # steps whose batch on the device is compared with the data set's


class Compare(L.Callback):
    """Reads each step's batch again, in this process, and compares it with the one on the device."""

    def __init__(self) -> None:
        self.different = 0

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        loader: Any = trainer.train_dataloader
        expected, _ = loader.dataset[batch_idx]
        same = all(torch.equal(batch[name].cpu(), expected[name]) for name in ("image", "text", "uid"))
        self.different += not same


def run(small: bool, folder: Path) -> Iterator[Row]:
    samples, batch, model = (96, 16, "tiny") if small else (30_000, 1_024, "ViT-B-32")
    machine = launch(Machine("cpu" if small else "gpu", 1, precision="32-true" if small else "bf16-mixed"))
    pool = make_pool(folder / "pool", samples)
    name, workers = architecture(model, folder), 1 if small else max(1, len(os.sched_getaffinity(0)) - 1)
    index = PoolIndex.build(Pool(str(pool)), folder / "cache", workers)
    kept = Subset(np.array(index.uids))

    def fit(steps: int, size: int, compare: bool, decode: Decode = "fast") -> tuple[Supervisor, GlobalBatchLoader, int]:
        out = folder / f"run-{decode}-{size}"
        data = PoolDataModule(str(pool), str(out), name, steps * size, size, workers=workers, decode=decode)
        data.use(index, kept)
        module = CLIPModule(name, lr=1e-4, warmup=10, grad_checkpointing=not small)
        guard = Guard(out, max_skipped=0)
        supervisor = Supervisor(out, {}, max_loss=1.0, every_steps=(10**9,), every_minutes=1e9, guard=guard)
        metrics = Metrics(out / "metrics.csv", size, supervisor)
        extra = [Compare()] if compare else []
        own = [guard, metrics, supervisor, *extra]
        make_fit_trainer(machine, False, own, {"log_every_n_steps": 10}).fit(module, data)
        return supervisor, data.loader, extra[0].different if extra else 0

    steps = 4 if small else COMPARED
    _, _, different = fit(steps, 8 if small else 128, compare=True)
    yield holds(f"batches on the device are the data set's, {steps} steps", different == 0, f"{different} differ")
    supervisor, loader, _ = fit(6 if small else 60, batch, compare=False)
    yield measured("samples per second", len(loader) * batch / supervisor.seconds)
    share = loader.wait_seconds / supervisor.seconds
    yield measured("share of waiting", share) if small else at_most("share of waiting", share, 0.05)
    if not small:
        supervisor, loader, _ = fit(30, batch, compare=False, decode="gpu")
        yield measured("decode gpu: samples per second", len(loader) * batch / supervisor.seconds)
        yield measured("decode gpu: share of waiting", loader.wait_seconds / supervisor.seconds)
