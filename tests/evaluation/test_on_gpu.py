"""Evaluation on a GPU that is not there: batches are sent ahead, and no batch is waited for."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipsift_common.clip import LoadedCLIP, create_clip, get_tokenizer, wrap_clip
from evaluation.run import evaluate_in_place
from evaluation.tasks import TASKS
from helpers.evaluation_sets import write_random_task
from helpers.machines.simulated_gpu import SimulatedGPU, simulated
from helpers.tiny_clip import write_architecture

TASK = TASKS["imagenet1k"]


@pytest.fixture
def clip(tmp_path: Path) -> LoadedCLIP:
    model = str(write_architecture(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return wrap_clip(create_clip(model), tokenizer=get_tokenizer(model))


def test_more_batches_are_not_more_waits(clip: LoadedCLIP, tmp_path: Path) -> None:
    write_random_task(tmp_path / TASK.folder)
    expected, failures = evaluate_in_place(clip, tmp_path, [TASK], batch_size=4, workers=0)
    assert failures == {}
    num_samples = expected[0]["num_samples"]
    waits = []
    for batch_size in (4, 2):
        with SimulatedGPU() as gpu:
            there = replace(clip, model=simulated(copy.deepcopy(clip.model)))
            results, failures = evaluate_in_place(there, tmp_path, [TASK], batch_size=batch_size, workers=0)
        assert failures == {}
        assert results[0]["metrics"] == pytest.approx(expected[0]["metrics"])
        assert gpu.streams.races == []
        copies = [place for place, event in enumerate(gpu.streams.log) if event == ("_to_copy", "side")]
        images = [place for place, event in enumerate(gpu.streams.log) if event == ("convolution", "main")]
        assert len(images) == -(-num_samples // batch_size)
        each = len(copies) // len(images)  # tensors of a batch
        assert all(copies[each * (number + 2) - 1] < images[number] for number in range(len(images) - 1))
        waits.append(len(gpu.synchronisations))
    assert waits[0] == waits[1]
