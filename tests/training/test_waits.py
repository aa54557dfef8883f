"""Training on a GPU that is not there: between the rows of the log a step never waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from clipsift_common.machine import Machine
from clipsift_common.towers.text import TextLengths
from helpers.machines.simulated_gpu import DEVICE, Simulated, SimulatedGPU, simulated
from helpers.machines.simulated_trainer import on_simulated_gpu
from helpers.training_run import make_online, save_teacher
from selection.kernels import logsumexp
from training import CLIPModule
from training.averaging import MovingAverage
from training.fit import make_fit_trainer
from training.guard import LAG, Guard
from training.loading.loader import GlobalBatchLoader
from training.metrics import Metrics
from training.online import OnlineSelection
from training.precision import float32_as_open_clip
from training.supervisor import Supervisor

STEPS, BATCH = 6 + LAG, 8  # the guard looks at the first steps


class InMemory(Dataset):
    """The same batch at every step."""

    order, index = SimpleNamespace(fingerprint=lambda index: "in memory"), None

    def __init__(self, size: int, lost: Sequence[Any] = ()) -> None:
        self.lost = list(lost)
        generator = torch.Generator().manual_seed(0)
        self.batch: dict[str, Any] = {
            "image": torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=generator),
            "text": torch.randint(1, 49407, (size, 16), generator=generator),
            "text_lengths": TextLengths(np.arange(size) % 16 + 1),
            "uid": torch.randint(0, 2**60, (size, 2), generator=generator),
        }

    def __getitem__(self, step: int) -> tuple[dict[str, Any], list[Any]]:
        return dict(self.batch), self.lost


class Waits(L.Callback):
    """How often each step has waited by its end; the last callback."""

    def __init__(self, gpu: SimulatedGPU) -> None:
        self.gpu, self.steps = gpu, list[list[str]]()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert all(isinstance(parameter, Simulated) for parameter in pl_module.parameters())
        self.steps.append(self.gpu.synchronisations[:])
        self.gpu.synchronisations.clear()


def train(
    workspace: Path,
    folder: Path,
    hyper: dict[str, Any],
    options: dict[str, Any] | None = None,
    online: OnlineSelection | None = None,
) -> list[list[str]]:
    """What each step waited for."""
    guard = Guard(folder, max_skipped=0)
    supervisor = Supervisor(folder, {}, 1.0, (10**9,), 1e9, guard)
    supervisor._save = lambda trainer: None  # type: ignore[method-assign]  # a checkpoint must wait
    own = [guard, Metrics(folder / "metrics.csv", BATCH, supervisor), supervisor, *([online] if online else [])]
    batches: Any = InMemory(online.num_drawn if online else BATCH)
    loader = GlobalBatchLoader(batches, STEPS, 0, DEVICE)
    with SimulatedGPU() as gpu:
        module = simulated(CLIPModule(str(workspace / "tiny.json"), lr=1e-3, warmup=2, **hyper))
        if online:
            simulated(online.clip.model)
        waits = Waits(gpu)
        average = [MovingAverage(hyper["ema"], guard)] if "ema" in hyper else []
        machine: dict[str, Any] = on_simulated_gpu() | {"callbacks": average, "log_every_n_steps": 4}
        trainer = make_fit_trainer(Machine("cpu", 1), False, [*own, waits], machine | (options or {}))
        with float32_as_open_clip(DEVICE):
            trainer.fit(module, train_dataloaders=loader)
    assert len(waits.steps) == STEPS
    assert gpu.streams.races == []
    assert [name for name, stream in gpu.streams.log if stream == "side"] == ["_to_copy"] * 3 * STEPS
    return waits.steps


@pytest.mark.parametrize(
    ("hyper", "options"),
    [
        ({}, {}),
        ({"ema": 0.9}, {}),
        ({"accumulate": 2}, {}),
        ({"loss": "siglip"}, {}),
        ({"grad_checkpointing": True}, {"gradient_clip_val": 1.0}),
        ({}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}),
    ],
)
def test_a_step_waits_only_where_it_is_logged(workspace, tmp_path, hyper, options):
    steps = train(workspace, tmp_path, hyper, options)
    logged = [3, 7]  # every fourth
    waiting = {number for number, waits in enumerate(steps[1:], start=1) if waits}
    assert waiting == {*logged, STEPS - 1}
    assert all(1 <= len(steps[number]) <= 3 for number in logged)
    assert len(steps[-1]) <= 4 + LAG  # it is logged, and before its checkpoint the guard looks at all that is left


@pytest.mark.parametrize(
    "steps",
    [
        [{"score": "s_cliploss", "keep": 0.5, "temperature": 0.07}],
        [{"score": "normsim", "target": "t", "p": "inf", "keep": 0.7}, {"score": "s_cliploss", "keep": 0.5}],
        [{"score": "rank_sum", "of": [{"score": "clip_score"}, {"score": "vas", "target": "t"}], "keep": 0.5}],
    ],
)
def test_a_super_batch_waits_for_its_scores(workspace, tmp_path, steps, monkeypatch):
    monkeypatch.setattr(logsumexp, "triton_available", lambda: False)
    online = make_online(workspace, save_teacher(workspace, tmp_path / "teacher.pt"), steps)
    target = simulated(online.target("t"))
    online.target = lambda name: target
    waits = train(workspace, tmp_path, {}, online=online)
    assert all(1 <= len(waits[number]) <= 2 for number in (1, 2, 4))


def test_a_batch_that_lies_ready_is_in_no_state_and_no_count() -> None:
    dataset: Any = InMemory(BATCH, [("broken_image", "shard", "key", "detail")])
    with SimulatedGPU():
        loader = GlobalBatchLoader(dataset, STEPS, 0, DEVICE)
        for number, _ in enumerate(loader, start=1):
            assert loader.state_dict()["step"] == number
            assert (loader.report.samples, loader.report.num_lost) == (number * (BATCH + 1), number)
    assert number == STEPS
