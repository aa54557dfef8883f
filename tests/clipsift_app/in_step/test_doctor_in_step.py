"""The doctor on eight ranks: one reads, all take the steps, all end with the same verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch.distributed as dist

from clipsift_app.doctor import launch, run_doctor
from clipsift_common.distributed import barrier
from helpers.machines.fake_group import FakeGroup, machine_here
from helpers.workspace import write_workspace


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trainers whose steps take a moment, of the ranks together or of one alone; by each rank's entry, when it lacks
    the memory for a step of so many samples."""
    lacks = [10**9] * 8

    def fit(trainer: L.Trainer, model: L.LightningModule, train_dataloaders: Any) -> None:
        if train_dataloaders.count >= lacks[dist.get_rank()]:
            raise MemoryError("cannot allocate")
        if trainer.world_size > 1:
            barrier()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_train_batch_start(trainer, model, {}, 0)
            callback.on_train_batch_end(trainer, model, {}, {}, 0)

    monkeypatch.setattr(L.Trainer, "fit", fit)
    monkeypatch.setattr(launch, "launch", lambda machine: machine_here())
    return lacks


def doctor(folder: Path, ranks: int) -> bool:
    settings = [f"--out={folder / 'run'}", "--data.workers=0", "--evaluation.tasks=[imagenet1k, vtab/dtd]"]
    return run_doctor([f"--config={folder / 'config.yaml'}", *settings, f"--trainer.devices={ranks}"])


def test_all_agree_that_a_run_is_in_order(tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    write_workspace(tmp_path)
    group: FakeGroup[bool] = FakeGroup(8, tmp_path)
    assert group.run(lambda: doctor(tmp_path, 8)) == [True] * 8
    said = capsys.readouterr().out
    assert said.count("settings") == 1
    assert "8 processes on cpu" in said
    group.check_files()
    assert not (tmp_path / "run").exists()


def test_what_one_rank_finds_is_the_verdict_of_all(
    tmp_path: Path, steps: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_workspace(tmp_path)
    steps[3] = 4
    assert FakeGroup[bool](4).run(lambda: doctor(tmp_path, 4)) == [False] * 4
    assert "a step of 4 samples ran out of memory" in capsys.readouterr().out
    steps[3] = 10**9
    for shard in (tmp_path / "pool/shards").iterdir():
        shard.write_bytes(shard.read_bytes()[:9000])
    assert FakeGroup[bool](4).run(lambda: doctor(tmp_path, 4)) == [False] * 4
    assert "is truncated" in capsys.readouterr().out
