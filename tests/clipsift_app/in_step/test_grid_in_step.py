"""Whole runs on eight ranks that only pretend to train: they call the same collectives, from teacher to page."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clipsift_app import grid
from clipsift_app.demo import run as demo
from helpers.machines.fake_group import FakeGroup, machine_here
from helpers.workspace import write_workspace


def check_pool(group: FakeGroup[Path]) -> None:
    """Only rank 0 looks what there is in the pool."""
    for files in group.files[1:]:
        assert not [path for path in files.listed if {"pool", "trusted"} & set(path.split("/"))]


def test_a_grid_from_the_teacher_to_the_page(tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "launch", lambda machine: machine_here())
    config = write_workspace(tmp_path)
    (tmp_path / "random.yaml").write_text("selection: {steps: [{score: random, keep: 0.5}]}\n")
    arguments = [f"--config={config}", f"--out={tmp_path / 'runs'}", "--data.workers=0", "--recipes"]
    group: FakeGroup[Path] = FakeGroup(8, tmp_path)
    pages = group.run(lambda: grid.run_grid([*arguments, str(tmp_path / "random.yaml")]))
    assert set(pages) == {tmp_path / "runs" / "index.html"}
    assert pages[0].is_file()
    check_pool(group)


@pytest.mark.slow
def test_the_demo(tmp_path: Path, untrained: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "launch", lambda machine: machine_here())
    monkeypatch.setitem(demo.SIZES, "small", {"pool_size": 160, "trusted_size": 64, "eval_size": 80})
    monkeypatch.setattr(demo, "RECIPES", ("clip_score", "s_cliploss_normsim"))
    group: FakeGroup[None] = FakeGroup(8, tmp_path)
    group.run(lambda: demo.run_demo(demo.DemoSettings(out=str(tmp_path / "demo"), size="small", devices=8)))
    assert (tmp_path / "demo" / "index.html").is_file()
    check_pool(group)
    models = [f"{run}/training/model" for run in ("clip_score", "s_cliploss_normsim")]  # open_clip looks what there is
    # The evaluation's two tars are for all, the pool's are read by one rank each.
    group.check_files(readers=8, own_folders=tuple(f"demo/seed0/{folder}" for folder in ("cache/teacher", *models)))
    read = Counter(path for files in group.files for path in files.read if "data/pool" in path)
    assert max(count for path, count in read.items() if path.endswith(".tar")) == 1
