"""Under srun of eight tasks, every stage of every rank is on the rank's own GPU. The GPUs are simulated."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import selection.selector
from clipsift_app.doctor.step import Material, Trial
from clipsift_app.parsing import parse_run
from clipsift_common.clip import LoadedCLIP, create_clip, evaluation_transform, get_tokenizer
from clipsift_common.launch import join, launch
from clipsift_common.machine import LaunchedMachine, Machine, num_workers
from evaluation import evaluate
from helpers.machines.launchers import become, gpus, srun  # noqa: F401 - a fixture
from helpers.workspace import write_workspace
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection
from training.fit import make_fit_trainer

See = Callable[[int], list[torch.device]]


class Began(Exception):
    """A Trainer is about to work."""


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Of the Trainers that were about to work; none of them does."""
    seen: list[torch.device] = []

    def begin(trainer: L.Trainer, *_: Any, **__: Any) -> None:
        seen.append(trainer.strategy.root_device)
        raise Began

    for name in ("fit", "test", "predict"):
        monkeypatch.setattr(L.Trainer, name, begin)
    return seen


def test_every_stage_of_every_rank(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: See,  # noqa: F811
    devices: list[torch.device],
) -> None:
    config, model = write_workspace(tmp_path), create_clip(str(tmp_path / "tiny.json"))
    clip = LoadedCLIP(model, evaluation_transform(model), get_tokenizer(str(tmp_path / "tiny.json")), "tiny")
    run = parse_run([f"--config={config}", f"--out={tmp_path / 'run'}", "--trainer.accelerator=auto"])
    metadata = Selection(None, "l14", [{"score": "normsim", "p": 2, "target": "trusted", "keep": 0.5}])

    def load_target(source: str, clip: Any, name: Any, cache: Any, device: torch.device, trusted: Any) -> torch.Tensor:
        devices.append(device)
        raise Began

    monkeypatch.setattr(selection.selector, "load_target", load_target)
    gpus(8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(96)))
    for rank in range(8):
        become(monkeypatch, srun(rank, 8))
        machine, place = join(Machine(), srun(rank, 8), 8)
        assert place is not None
        here = run.machine = LaunchedMachine(**vars(machine), place=place)
        selector = Selector(metadata, Pool(str(tmp_path / "pool")), tmp_path / "run", tmp_path / "cache", machine=here)
        selector.trusted = str(tmp_path / "trusted")
        scored = Selector(Selection(None, None, []), selector.pool, selector.out, selector.cache, machine=here)
        devices.append(scored._plan({}).device)
        with pytest.raises(Began):
            selector._plan({})
        with pytest.raises(Began):
            evaluate(clip, tmp_path / "eval", machine=here)
        devices += [make_fit_trainer(here, alone, [], {}).strategy.root_device for alone in (False, True)]
        material = Material({"image": torch.zeros(2, 3, 8, 8)}, 1.0, 192.0)
        devices.append(Trial(run, here, material).device)
        assert devices == [torch.device("cuda", rank)] * 6
        devices.clear()
        assert (num_workers(None, here), num_workers(3, here)) == (12, 3)  # an eighth of the node's cores


def test_a_single_process_makes_its_gpu_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
    gpus: See,  # noqa: F811
) -> None:
    chosen = gpus(4)
    become(monkeypatch, {})
    assert launch(Machine(devices=[2])).devices == [2]
    assert chosen == [torch.device("cuda", 2)]
