"""A run that commit 0e0a8c1 made, when the packages had other names (``pipeline``, ``common``), is a run still."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsift_app.parsing import read_settings
from clipsift_app.program import run_verb
from selection.subset import Subset
from selection.uids import format_uids

FROZEN = Path(__file__).parent / "before_the_move"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The run and its pool; ``WORLD`` stands for their folder, since a saved config has absolute paths."""
    shutil.copytree(FROZEN, tmp_path / "world")
    config = tmp_path / "world/run/config.yaml"
    config.write_text(config.read_text().replace("WORLD", str(tmp_path / "world")))
    return tmp_path / "world"


def test_its_settings_are_read(world: Path) -> None:
    run = read_settings(world / "run")
    assert (run.name, run.seed, run.pool) == ("before", 3, str(world / "pool"))
    assert [step["keep"] for step in run.selection.steps] == [0.6, 0.3]
    assert (run.model["model"], run.data["global_batch"], run.machine.accelerator) == ("ViT-B-32", 16, "cpu")


def test_it_is_the_same_experiment_and_nothing_is_made_again(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (world / "run/selection").rglob("*")}
    assert run_verb("select", [f"--config={world / 'run/config.yaml'}"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (world / "run/selection").rglob("*")} == before


def test_made_anew_it_keeps_the_same_samples(world: Path) -> None:
    places = [f"--out={world / 'again'}", f"--cache={world / 'cache'}"]
    assert run_verb("select", [f"--config={world / 'run/config.yaml'}", *places]) == 0
    again = Subset.load(world / "again/selection/subset.npy")
    assert again == Subset.load(world / "run/selection/subset.npy")


def test_it_is_explained_and_reported(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = pq.read_table(world / "run/selection/scores/00000000.parquet").to_pydict()
    worst = int(np.argmin(scores["metadata_column"]))
    uid = format_uids(Subset.load(world / "run/selection/subset.npy").uids)[0]
    for given, verdict in ((uid, "kept"), (f"{worst + 1:032x}", "dropped")):
        assert run_verb("explain", [given, f"--run={world / 'run'}"]) == 0
        printed = capsys.readouterr().out
        assert verdict in printed
        assert f"caption  caption {int(given, 16)}" in printed
    assert run_verb("report", [str(world / "run")]) == 0
    assert "metadata_column" in (world / "run/report/index.html").read_text()
