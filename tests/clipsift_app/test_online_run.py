"""Selection while training, from a run's settings: parsed, checked, saved, run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from clipsift_app.parsing import parse_run
from clipsift_app.stages import run_fit
from clipsift_common.errors import ClipsiftError
from clipsift_common.quiet import quiet_libraries
from helpers.workspace import write_workspace


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    quiet_libraries()
    folder = tmp_path_factory.mktemp("online")
    config = write_workspace(folder)
    values = yaml.safe_load(config.read_text())
    chosen = values.pop("selection")
    values["online"] = {"teacher": chosen["teacher"], "steps": chosen["steps"], "batch_size": 16}
    config.write_text(yaml.safe_dump(values))
    return [f"--config={config}", f"--out={folder / 'run'}", "--trainer.devices=1", "--data.workers=0"]


def test_a_run_that_selects_while_it_trains(arguments: list[str]) -> None:
    run = parse_run(arguments)
    run.save()
    model = run_fit(run)
    note = json.loads((model.parent / "training.json").read_text())
    assert (note["steps"], note["samples_seen"], note["subset_size"]) == (10, 160, 72)  # nothing was left out before
    report = json.loads((model.parent / "data_report.json").read_text())
    assert report["training"]["samples"] == 10 * 32  # 16 kept of 32
    again = parse_run([f"--config={run.out / 'config.yaml'}"])
    assert again.online == run.online
    stamp = model.stat().st_mtime_ns
    assert run_fit(again) == model
    assert model.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--online.steps=[]", r"online\.steps: none given"),
        ("--online.steps=[{score: s_cliploss, count: 5}]", r"online\.steps\[0\]: only a score with keep"),
        ("--online.precision=bf16", "precision"),
    ],
)
def test_wrong_settings_are_refused(arguments: list[str], change: str, message: str) -> None:
    with pytest.raises(ClipsiftError, match=message):
        parse_run([*arguments, change])


def test_metrics_reach_a_logger_of_the_settings(arguments: list[str], tmp_path: Path) -> None:
    logger = f"{{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {{save_dir: {tmp_path}, name: mine}}}}"
    run = parse_run([*arguments, f"--out={tmp_path / 'run'}", "--online=null", f"--trainer.logger={logger}"])
    run_fit(run)
    ours = list(csv.DictReader((tmp_path / "run" / "training" / "metrics.csv").open(newline="")))
    theirs = list(csv.DictReader((tmp_path / "mine" / "version_0" / "metrics.csv").open(newline="")))
    assert [float(row["train/loss"]) for row in theirs] == [float(row["loss"]) for row in ours]
    assert [int(row["step"]) for row in theirs] == list(range(1, 11))
    assert {"train/data_wait", "train/samples_per_second_per_device", "train/learning_rate"} <= set(theirs[0])


def test_a_logger_that_cannot_be_made_is_named(arguments: list[str], tmp_path: Path) -> None:
    logger = "{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: /proc/none}}"
    run = parse_run([*arguments, f"--out={tmp_path / 'run'}", "--online=null", f"--trainer.logger={logger}"])
    run.trainer["logger"]["init_args"]["flush_every"] = "never"
    with pytest.raises(ClipsiftError, match=r"trainer: .*flush"):
        run_fit(run)
