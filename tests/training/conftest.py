"""Fixtures of the training tests; the pieces are in ``tiny_run.py``, which processes of their own import too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clipsift_common.machine import Machine
from clipsift_common.quiet import quiet_libraries
from helpers.training_run import RecordingCLIP, data_options, write_workspace
from training import PoolDataModule


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quiet_libraries()
    torch.set_num_threads(1)  # models this small lose more to threads than they gain
    return write_workspace(tmp_path_factory.mktemp("training"))


@pytest.fixture
def make_data(workspace: Path, tmp_path: Path) -> Callable[..., PoolDataModule]:
    def make(**changes: Any) -> PoolDataModule:
        return PoolDataModule(**data_options(workspace, tmp_path / "run") | changes)

    return make


@pytest.fixture
def make_module(workspace: Path) -> Callable[..., RecordingCLIP]:
    return lambda **hyper: RecordingCLIP(str(workspace / "tiny.json"), **hyper)


@pytest.fixture
def machine(workspace: Path) -> Machine:
    return Machine(accelerator="cpu", devices=1)
