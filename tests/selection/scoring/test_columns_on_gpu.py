"""Columns of a pool on a GPU that is not there: features and targets are sent to it, only scores come back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.features import image_text_pairs
from helpers.machines.simulated_gpu import DEVICE, SimulatedGPU, simulated
from selection.features.files import FeatureFile, write_feature_file
from selection.kernels import logsumexp
from selection.recipe.parsed import ParsedRecipe
from selection.scoring.columns import ScorePlan, column_keys, write_scores
from selection.scoring.files import ScoreFile
from selection.uids import parse_uids

STEPS = [
    {"score": "s_cliploss", "batch_size": 32, "num_batches": 2, "keep": 0.9},
    {"score": "clip_score", "keep": 0.8},
    {"score": "normsim", "target": "t", "keep": 0.7},
    {"score": "normsim", "target": "t", "p": "inf", "name": "near", "keep": 0.6},
    {"score": "vas", "target": "t", "keep": 0.5},
    {"score": "random", "keep": 0.4},
]


def test_columns_are_computed_on_the_plans_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logsumexp, "triton_available", lambda: False)  # the fused kernel has its own test
    image, text = (tower.numpy() for tower in image_text_pairs(80, 16))
    text[5] = np.nan
    uids = parse_uids([f"{row:x}" for row in range(80)])
    write_feature_file(tmp_path / "metadata", "l14", "0", uids, [""] * 80, image, text)
    file = FeatureFile(str(tmp_path / "metadata" / "0.parquet"), "l14")
    target = torch.from_numpy(image[:9].copy())
    columns = ParsedRecipe.parse(STEPS).columns
    keys = column_keys(columns, 0, {"t": "print"})

    def scores(device: torch.device, target: torch.Tensor) -> dict[str, np.ndarray]:
        folder = tmp_path / device.type
        plan = ScorePlan(columns, keys, folder / "cache", 0, device, lambda _: target, 0)
        write_scores([file], plan, folder / "scores")
        found = ScoreFile(0, folder / "scores" / "0.parquet")
        return {column.name: found.column(column.name) for column in columns}

    expected = scores(torch.device("cpu"), target)
    with SimulatedGPU() as gpu:
        found = scores(DEVICE, simulated(target))
    assert gpu.launches
    assert list(found) == ["s_cliploss", "clip_score", "normsim", "near", "vas", "random"]
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)
