from __future__ import annotations

import pytest
import torch

from helpers.machines.simulated_gpu import DEVICE
from helpers.training_run import make_online, save_teacher
from training.fit import make_fit_trainer
from training.online import OnlineSelection
from training.precision import float32_as_open_clip


def test_a_gpu_trains_as_open_clip_does_and_others_as_before():
    before = torch.get_float32_matmul_precision()
    with float32_as_open_clip(DEVICE):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
    with float32_as_open_clip(torch.device("cpu")):
        assert torch.get_float32_matmul_precision() == before


def test_an_online_teacher_stays_exact(workspace, tmp_path, monkeypatch):
    online = make_online(
        workspace, save_teacher(workspace, tmp_path / "teacher.pt"), [{"score": "clip_score", "keep": 0.5}]
    )
    seen = []

    def encode(*_):
        seen.append(torch.get_float32_matmul_precision())
        raise ZeroDivisionError

    monkeypatch.setattr(OnlineSelection, "encode", encode)
    with pytest.raises(ZeroDivisionError), float32_as_open_clip(DEVICE):
        online.on_train_batch_start(None, None, {"image": None, "text": None}, 0)
    assert seen == ["highest"]


@pytest.mark.parametrize(
    ("options", "benchmark"), [({}, True), ({"deterministic": True}, False), ({"benchmark": False}, False)]
)
def test_cudnn_looks_for_its_fastest_convolution_unless_told_otherwise(machine, options, benchmark, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    deterministic = torch.are_deterministic_algorithms_enabled()
    make_fit_trainer(machine, False, [], options)
    assert torch.backends.cudnn.benchmark == benchmark
    torch.use_deterministic_algorithms(deterministic)
