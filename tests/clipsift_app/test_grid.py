"""Several recipes and seeds in one go: what is shared, what each run is, and going on after a stop."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import pytest

from clipsift_app.grid import is_grid, run_grid
from clipsift_app.program import run_verb
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from helpers.workspace import write_workspace

RECIPES = {
    "some": "name: some\nselection: {steps: [{score: clip_score, keep: 0.5}]}\n",
    "random": "selection: {steps: [{score: random, keep: 0.5}]}\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    write_workspace(folder)
    for name, text in RECIPES.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    recipes = [str(folder / f"{name}.yaml") for name in RECIPES]
    base = [f"--config={folder / 'config.yaml'}", "--data.workers=0", f"--out={folder / 'runs'}"]
    return [*base, "--recipes", *recipes, "--seeds", "0", "1", *more]


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    assert run_verb("reproduce", arguments(folder)) == 0
    return folder / "runs"


def runs(finished: Path) -> list[Path]:
    return [finished / recipe / f"seed{seed}" for seed in (0, 1) for recipe in RECIPES]


@pytest.mark.slow
def test_every_cell_is_a_whole_run_and_one_page_compares_them(finished: Path) -> None:
    for run in runs(finished):
        assert (run / "report/index.html").is_file()
        assert not (run / "cache").exists()
    assert len(list((finished / "cache/teacher").iterdir())) == 2  # one for each seed, shared by the recipes
    assert "Recipes compared" in (finished / "index.html").read_text()
    assert [read_json(run / "selection/subset.json")["seed"] for run in runs(finished)] == [0, 0, 1, 1]


@pytest.mark.slow
def test_a_second_start_repeats_nothing(folder: Path, finished: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    (finished / "random/seed1/evaluation/summary.json").unlink()
    (finished / "random/seed1/evaluation/eval_results.jsonl").unlink()
    assert run_verb("reproduce", arguments(folder)) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")} == stamps
    assert (finished / "random/seed1/evaluation/summary.json").is_file()
    assert len(read_json(finished / "random/seed1/provenance.json")) == 2


@pytest.mark.slow
def test_a_cell_is_the_run_that_its_own_config_makes(folder: Path, finished: Path) -> None:
    alone = folder / "alone"
    cell = [f"--config={finished / 'some/seed1/config.yaml'}", f"--out={alone}", f"--cache={alone / 'cache'}"]
    assert run_verb("reproduce", cell) == 0
    for name in ("selection/subset.npy", "training/model/open_clip_model.safetensors"):
        assert (alone / name).read_bytes() == (finished / "some/seed1" / name).read_bytes()


@pytest.mark.slow
def test_means_and_spreads_are_those_of_a_spreadsheet(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run_verb("compare", [*map(str, runs(finished)), "--format=csv"]) == 0
    for row in csv.DictReader(io.StringIO(capsys.readouterr().out)):
        cells = [run for run in runs(finished) if run.parent.name == row["recipe"]]
        values = [read_json(run / "evaluation/summary.json")["imagenet"] for run in cells]
        assert float(row["ImageNet"]) == pytest.approx(statistics.mean(values))
        assert float(row["ImageNet spread"]) == pytest.approx(statistics.stdev(values))
        assert row["runs"] == "2"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seeds", "one"], "seeds: whole numbers"),
        (["--recipes", "/nowhere.yaml"], "nowhere.yaml does not exist"),
        (["--selection.stpes=[]"], "stpes"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(folder: Path, tmp_path: Path, more: list[str], words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        run_grid([*arguments(folder), f"--out={tmp_path / 'wrong'}", *more])
    assert not (tmp_path / "wrong").exists()


def test_recipes_of_one_name_and_other_machines_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "same.yaml").write_text(RECIPES["some"])
    with pytest.raises(ClipsiftError, match="one name"):
        run_grid([*arguments(folder), "--recipes", str(folder / "same.yaml")])
    (folder / "machine.yaml").write_text("trainer: {precision: bf16-mixed}\n")
    with pytest.raises(ClipsiftError, match="machine has another trainer than some"):
        run_grid([*arguments(folder), "--recipes", str(folder / "machine.yaml")])


def test_only_lists_make_a_grid() -> None:
    assert is_grid(["--seeds=0,1"])
    assert is_grid(["--config=x", "--recipes", "a.yaml"])
    assert not is_grid(["--config=x", "--seed_everything=3"])
