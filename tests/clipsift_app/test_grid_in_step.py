"""Whole runs on eight ranks that only pretend to train: they call the same collectives, from teacher to page."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from clipsift_app import grid, stages
from clipsift_common.clip import LoadedCLIP
from helpers.machines.fake_group import FakeGroup, machine_here
from helpers.workspace import write_workspace
from training.metrics import COLUMNS, begin_table


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers that take no step, in processes that are there already."""

    def fit(trainer: L.Trainer, model: L.LightningModule, datamodule: L.LightningDataModule, **_: Any) -> None:
        datamodule.setup("fit")
        model.configure_model()
        if trainer.is_global_zero:
            begin_table(Path(datamodule.out) / "training" / "metrics.csv", COLUMNS, 0)  # type: ignore[attr-defined]

    monkeypatch.setattr(L.Trainer, "fit", fit)
    monkeypatch.setattr(grid, "launch", lambda machine: machine_here())
    turns, load = threading.Lock(), stages.load_clip  # open_clip loads in one thread at a time

    def load_in_turn(*what: Any) -> LoadedCLIP:
        with turns:
            return load(*what)

    monkeypatch.setattr(stages, "load_clip", load_in_turn)


def test_a_grid_from_the_teacher_to_the_page(tmp_path: Path, untrained: None) -> None:
    config = write_workspace(tmp_path)
    (tmp_path / "random.yaml").write_text("selection: {steps: [{score: random, keep: 0.5}]}\n")
    arguments = [f"--config={config}", f"--out={tmp_path / 'runs'}", "--data.workers=0", "--recipes"]
    group: FakeGroup[Path] = FakeGroup(8, tmp_path)
    pages = group.run(lambda: grid.run_grid([*arguments, str(tmp_path / "random.yaml")]))
    assert set(pages) == {tmp_path / "runs" / "index.html"}
    assert pages[0].is_file()
    for files in group.files[1:]:
        assert not [path for path in files.listed if path.startswith(("pool", "trusted"))]
