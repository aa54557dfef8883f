"""What the doctor says of decoding on a GPU, and of steps that do not fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clipsift_app.doctor import shared_memory, step
from clipsift_app.doctor.finding import Finding
from clipsift_app.doctor.shards import read_some
from clipsift_app.doctor.step import Material, read_samples
from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from helpers.workspace import write_workspace
from selection.pool.index import PoolIndex
from selection.pool.location import Pool


@pytest.fixture
def run(tmp_path: Path) -> RunSettings:
    write_workspace(tmp_path)
    words = [f"--config={tmp_path / 'config.yaml'}", f"--out={tmp_path / 'run'}", "--data.workers=3"]
    return parse_run(words, needs_eval=False)


@pytest.fixture
def index(run: RunSettings, tmp_path: Path) -> PoolIndex:
    _, index = read_some(run, Pool(run.pool), None, tmp_path / "scratch")
    assert index is not None
    return index


def test_what_the_gpu_decodes_is_weighed_as_it_is_sent(
    run: RunSettings, index: PoolIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, machine = 3 * 32 * 32, launch(run.machine)
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))

    def need(decode: str) -> tuple[float, Finding]:
        run.data["decode"] = decode
        finding, material = read_samples(run, index)
        assert material is not None
        assert ("left encoded" in finding.text) == (decode == "gpu")
        (found,) = shared_memory.check_shared_memory(run, machine, pixels, material.num_bytes, 1000)
        return material.num_bytes, found

    run.eval = None
    run.selection.teacher = None
    sizes = [len(index.read(row).image) for row in range(len(index))]
    as_jpeg, encoded = need("gpu")
    assert min(sizes) <= as_jpeg <= max(sizes)
    assert as_jpeg == pytest.approx(np.mean(sizes), rel=0.01)  # 64 of them are read
    as_pixels, decoded = need("fast")
    assert as_pixels == pixels
    # 3 workers, 2 batches ahead of each; slots for pixels are two more.
    assert encoded.text.startswith(step.size(6 * 1000 * as_jpeg))
    assert decoded.text.startswith(step.size(8 * 1000 * pixels))


@pytest.mark.parametrize(
    ("others", "status"),
    [([], "ok"), (["data.decode: gpu: torchvision decodes no JPEGs on cuda:1 (x); take fast"], "fail")],
)
def test_decoding_is_tried_on_every_rank(others: list[str], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trial: Any = object.__new__(step.Trial)
    trial.device, tried = torch.device("cuda"), []
    monkeypatch.setattr(step, "check_gpu_decoding", tried.append)
    monkeypatch.setattr(step, "gather_objects", lambda error: [error, *others])
    found = trial._decoding()
    assert (found.check, found.status, tried) == ("decoding", status, [torch.device("cuda")])

    def refuse(device: torch.device) -> None:
        raise ClipsiftError("data.decode: gpu needs a GPU; take fast")

    monkeypatch.setattr(step, "check_gpu_decoding", refuse)
    found = trial._decoding()
    assert (found.status, found.text) == ("fail", "data.decode: gpu needs a GPU; take fast")
    assert "fast" in found.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "least", "most", "remedies"),
    [
        (False, 110, 230, ["--model.accumulate", "--model.grad_checkpointing true"]),
        ("selective", 70, 150, ["--model.accumulate", "--model.grad_checkpointing true"]),
    ],
)
def test_the_recipe_s_batch_on_one_gpu_is_too_large(
    run: RunSettings, monkeypatch: pytest.MonkeyPatch, how: Any, least: float, most: float, remedies: list[str]
) -> None:
    """ViT-B/32, 4,096 samples, bf16: 34.6 MB a sample make 141 GB (an audit's figure); the check adds a quarter."""
    monkeypatch.setattr(step, "available", lambda device, ranks: 60e9)
    run.model |= {"model": "ViT-B-32", "grad_checkpointing": how}
    run.data |= {"global_batch": 4096, "samples_seen": 8192, "model": "ViT-B-32"}
    machine = launch(run.machine.__class__("cpu", 1, precision="bf16-mixed"))
    batch = {
        "image": torch.zeros(8, 3, 224, 224, dtype=torch.uint8),
        "text": torch.ones(8, 77, dtype=torch.int64),
        "uid": torch.zeros(8, 2, dtype=torch.int64),
    }
    (found,) = step.check_step(run, machine, Material(batch, 1e-3, 1.0))
    print(found.text, found.remedy)
    assert (found.check, found.status) == ("memory", "fail")
    assert least <= float(found.text.split("about ")[1].split(" GB")[0]) <= most
    assert all(remedy in found.remedy for remedy in remedies)
