"""Fixtures of the evaluation's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clipsift_common.clip import LoadedCLIP, load_clip
from clipsift_common.machine import Machine
from clipsift_common.quiet import quiet_libraries

CPU = Machine(accelerator="cpu", devices=1)


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    quiet_libraries()
    torch.set_num_threads(1)  # the models are tiny


@pytest.fixture(scope="session")
def machine() -> Machine:
    return CPU


@pytest.fixture(scope="session")
def reference(golden: Path) -> Path:
    return golden / "evaluation"


@pytest.fixture(scope="session")
def reference_clip(reference: Path) -> LoadedCLIP:
    return load_clip(str(reference / "model" / "golden-eval-a.json"), str(reference / "model" / "golden-eval-a.pt"))


@pytest.fixture(scope="session")
def reference_results(reference: Path) -> dict[str, dict[str, Any]]:
    lines = (reference / "golden_results.jsonl").read_text().splitlines()
    return {result["key"]: result for result in map(json.loads, lines)}
