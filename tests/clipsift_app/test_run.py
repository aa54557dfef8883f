"""The program as a user runs it: every stage, again, interrupted, on several processes, and with wrong settings."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import pytest

from clipsift_common.files import file_fingerprint, read_json
from helpers import program
from helpers.pools import spoil
from helpers.workspace import write_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    write_workspace(folder)
    return folder


@pytest.fixture(scope="module")
def finished(workspace: Path) -> Path:
    """A run directory that one process made without interruption."""
    result = program.run(["reproduce", f"--config={workspace / 'config.yaml'}", f"--out={workspace / 'run'}"])
    assert result.returncode == 0, result.stderr
    assert "report:" in result.stdout
    return workspace / "run"


def outcome(run: Path) -> dict[str, object]:
    """What must not depend on how a run came about."""
    files = [run / "selection" / "subset.npy", *sorted((run / "selection" / "scores").glob("*.parquet"))]
    results = [json.loads(line) for line in (run / "evaluation" / "eval_results.jsonl").read_text().splitlines()]
    return {
        "files": {file.name: file_fingerprint(file) for file in files},
        "results": {result["key"]: result["metrics"] for result in results},
    }


def losses(run: Path) -> list[str]:
    with open(run / "training" / "metrics.csv", newline="") as handle:
        return [row["loss"] for row in csv.DictReader(handle)]


def test_a_run_directory_holds_what_the_documentation_says(finished: Path) -> None:
    for name in (
        "config.yaml",
        "selection/subset.npy",
        "selection/subset.json",
        "selection/data_report.json",
        "selection/scores/00000001.parquet",
        "training/last.ckpt",
        "training/metrics.csv",
        "training/data_report.json",
        "training/training.json",
        "training/model/open_clip_config.json",
        "training/model/open_clip_model.safetensors",
        "evaluation/eval_results.jsonl",
        "evaluation/summary.json",
        "report/index.html",
    ):
        assert (finished / name).is_file(), name
    assert read_json(finished / "selection/subset.json")["num_kept"] == 36
    assert read_json(finished / "training/training.json")["steps"] == 10
    summary = read_json(finished / "evaluation/summary.json")
    assert summary["average"] is None
    assert summary["num_scored"] == 2
    assert len(summary["missing"]) == 36


def test_the_saved_config_alone_finds_the_run_complete(finished: Path) -> None:
    before = outcome(finished), file_fingerprint(finished / "training/model/open_clip_model.safetensors")
    stamps = {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")}
    result = program.run(["reproduce", f"--config={finished / 'config.yaml'}"])
    assert result.returncode == 0, result.stderr
    assert (outcome(finished), file_fingerprint(finished / "training/model/open_clip_model.safetensors")) == before
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.parquet")} == stamps


@pytest.mark.slow
def test_two_processes_give_the_subset_and_the_results_of_one(workspace: Path, finished: Path) -> None:
    out = workspace / "two"
    arguments = ["reproduce", f"--config={workspace / 'config.yaml'}", f"--out={out}", "--trainer.devices=2"]
    result = program.run(arguments)
    assert result.returncode == 0, result.stderr
    assert outcome(out) == outcome(finished)
    one, two = ([float(value) for value in losses(run)] for run in (finished, out))
    assert two == pytest.approx(one, abs=1e-5)


@pytest.mark.slow
def test_launchers_see_the_same_batches_in_the_same_order(workspace: Path, finished: Path) -> None:
    subset = f"--data.subset={finished / 'selection/subset.npy'}"
    runs = []
    for name, launcher, devices in (
        ("lightning", None, ["--trainer.devices=2"]),
        ("fabric", program.fabric_run(), []),
        ("torchrun", program.torchrun(), []),
    ):
        out = workspace / name
        arguments = ["fit", f"--config={workspace / 'config.yaml'}", f"--out={out}", subset, *devices]
        result = program.run(arguments, launcher)
        assert result.returncode == 0, result.stderr
        assert read_json(out / "training/training.json")["world_size"] == 2
        runs.append((losses(out), file_fingerprint(out / "training/model/open_clip_model.safetensors")))
    assert len(runs[0][0]) == 10
    assert runs[0] == runs[1] == runs[2]  # equal losses at every step, to the last digit: equal batches


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(workspace: Path, finished: Path) -> None:
    out = workspace / "killed"
    arguments = ["reproduce", f"--config={workspace / 'config.yaml'}", f"--out={out}"]
    stages = (
        "cache/teacher/*/training/last.ckpt",  # while the teacher trains
        "cache/features/*/00000000-*.parquet",  # while the pool is embedded
        "selection/scores/00000000.parquet",  # between scores and subset
        "training/last.ckpt",  # while the student trains
        "evaluation/eval_results.jsonl",  # between two tasks
    )
    kills = 0
    for pattern in stages:
        process = program.start(arguments)
        while process.poll() is None and not list(out.glob(pattern)):
            time.sleep(0.002)
        if process.poll() is None:
            program.kill(process)
            kills += 1
    assert kills == len(stages)
    result = program.run(arguments)
    assert result.returncode == 0, result.stderr
    assert outcome(out) == outcome(finished)
    assert losses(out) == losses(finished)


@pytest.mark.slow
def test_a_launch_of_another_size_is_refused_before_anything_is_loaded(workspace: Path) -> None:
    launcher = program.torchrun()
    out = workspace / "refused"
    arguments = ["fit", f"--config={workspace / 'config.yaml'}", f"--out={out}", "--trainer.devices=1"]
    result = program.run(arguments, launcher)
    assert result.returncode != 0
    assert "clipsift: error: the launch has 2 processes, but trainer.devices x trainer.num_nodes is 1" in result.stderr
    assert not out.exists()


def test_a_wrong_setting_is_one_line_and_a_status(workspace: Path) -> None:
    out = workspace / "wrong"
    result = program.run(["reproduce", f"--config={workspace / 'config.yaml'}", f"--out={out}", "--selection.step=[]"])
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(errors) == 1
    assert errors[0].startswith("clipsift: error:")
    assert "step" in errors[0]
    assert not out.exists()


@pytest.mark.slow
def test_damage_is_reported_and_limited(workspace: Path, tmp_path: Path) -> None:
    write_workspace(tmp_path)
    spoil(tmp_path / "pool")
    arguments = ["reproduce", f"--config={tmp_path / 'config.yaml'}", f"--out={tmp_path / 'run'}"]
    strict = program.run(arguments)
    assert strict.returncode == 1
    assert "above max_loss 1.00%" in strict.stderr
    assert "missing_caption: 00000000 silent" in strict.stderr
    lenient = program.run([*arguments, "--max_loss=0.1"])
    assert lenient.returncode == 0, lenient.stderr
    report = read_json(tmp_path / "run/selection/data_report.json")
    assert report["lost"] == {"missing_caption": 1, "duplicate_key": 1, "truncated_image": 1}
    assert report["ignored"] == {"pkl member": 1}
