"""Part 3: a fit on JPEGs from shards: its rate, its waiting, and that the device sees the batches of the data set."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch

from benchmarks.gpu.pools import architecture, make_pool
from benchmarks.gpu.rows import Row, at_most, holds, measured
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.machine import Machine
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from training.data import PoolDataModule
from training.fit import make_fit_trainer
from training.guard import Guard
from training.loading.transform import Decode
from training.metrics import Metrics
from training.model import CLIPModule
from training.supervisor import Supervisor

WARM_UP = 10  # steps
COMPARED = 100  # steps whose batch on the device is compared with the data set's


class Rate(L.Callback):
    """Seconds, steps and waiting from the first few steps on, which start workers and choose kernels, to the last."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        self._start: tuple[float, float] | None = None

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last, loader = int(trainer.num_training_batches) - 1, cast(Any, trainer.train_dataloader)
        if batch_idx not in (min(WARM_UP, last - 1), last):
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        now, waited = time.perf_counter(), loader.wait_seconds
        if self._start is None:
            self._start = now, waited
        else:
            self.steps = last - min(WARM_UP, last - 1)
            self.seconds, self.waited = now - self._start[0], waited - self._start[1]


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

    def fit(steps: int, size: int, compare: bool, decode: Decode = "fast") -> tuple[Rate, int]:
        out = folder / f"run-{decode}-{size}"
        data = PoolDataModule(str(pool), str(out), name, steps * size, size, workers=workers, decode=decode)
        data.use(index, kept)
        module = CLIPModule(name, lr=1e-4, warmup=10, grad_checkpointing=not small)
        guard = Guard(out, max_skipped=0)
        supervisor = Supervisor(out, {}, max_loss=1.0, every_steps=(10**9,), every_minutes=1e9, guard=guard)
        metrics = Metrics(out / "metrics.csv", size, supervisor)
        rate, extra = Rate(), [Compare()] if compare else []
        own = [rate, guard, metrics, supervisor, *extra]  # the rate before a checkpoint is written
        make_fit_trainer(machine, False, own, {"log_every_n_steps": 10}).fit(module, data)
        return rate, extra[0].different if extra else 0

    steps = 4 if small else COMPARED
    _, different = fit(steps, 8 if small else 128, compare=True)
    yield holds(f"batches on the device are the data set's, {steps} steps", different == 0, f"{different} differ")
    yield from _rates("", fit(6 if small else 60, batch, compare=False)[0], batch, None if small else 0.05)
    if small:
        return
    try:
        rate, _ = fit(40, batch, compare=False, decode="gpu")
    except ClipsiftError as error:  # a torchvision without nvJPEG
        yield measured("decode gpu", str(error))
    else:
        yield from _rates("decode gpu: ", rate, batch, None)


def _rates(name: str, rate: Rate, batch: int, bound: float | None) -> Iterator[Row]:
    yield measured(f"{name}samples per second", rate.steps * batch / rate.seconds)
    share = rate.waited / rate.seconds
    yield measured(f"{name}share of waiting", share) if bound is None else at_most("share of waiting", share, bound)
