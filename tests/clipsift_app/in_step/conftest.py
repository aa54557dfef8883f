from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import lightning as L
import pytest

from clipsift_app import stages
from clipsift_common.clip import LoadedCLIP
from training.metrics import COLUMNS, begin_table


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers that take no step."""

    def fit(trainer: L.Trainer, model: L.LightningModule, datamodule: L.LightningDataModule, **_: Any) -> None:
        datamodule.setup("fit")
        model.configure_model()
        if trainer.is_global_zero:
            begin_table(Path(datamodule.out) / "training" / "metrics.csv", COLUMNS, 0)  # type: ignore[attr-defined]

    monkeypatch.setattr(L.Trainer, "fit", fit)
    turns, load = threading.Lock(), stages.load_clip  # open_clip loads in one thread at a time

    def load_in_turn(*what: Any) -> LoadedCLIP:
        with turns:
            return load(*what)

    monkeypatch.setattr(stages, "load_clip", load_in_turn)
