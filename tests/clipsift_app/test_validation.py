"""Validation during training: the scores are right, and the training does not notice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn

from clipsift_app.program import run_verb
from clipsift_app.validation import Validate, Validation, _set_aside
from clipsift_common.clip import load_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import file_fingerprint
from clipsift_common.machine import Machine
from clipsift_common.quiet import quiet_libraries
from evaluation import evaluate
from evaluation.run import evaluate_in_place
from evaluation.tasks import select_tasks
from helpers import program
from helpers.evaluation_sets import write_random_task
from helpers.tiny_clip import ARCHITECTURE
from helpers.workspace import TRAINING, write_workspace
from training import CLIPModule
from training.data import PoolDataModule
from training.fit import fit

TASKS = ["vtab/dtd", "imagenet1k"]  # in the order of the results
# Half of the patches of every training picture are dropped at random: a disturbed random state changes the losses.
ARCHITECTURE = ARCHITECTURE | {"vision_cfg": ARCHITECTURE["vision_cfg"] | {"patch_dropout": 0.5}}  # type: ignore[dict-item, operator]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run ``off`` has no validation; all runs train on the subset that it selects."""
    quiet_libraries()
    folder = tmp_path_factory.mktemp("validation")
    write_workspace(folder)
    (folder / "dropping.json").write_text(json.dumps(ARCHITECTURE))
    assert run_verb("select", arguments(folder, "off")) == 0
    train(folder, "off")
    return folder


def arguments(folder: Path, name: str, *more: str) -> list[str]:
    # One cache: building the index draws random numbers, and would move the dropped patches.
    paths = {"config": "config.yaml", "out": name, "cache": "cache", "model.model": "dropping.json"}
    words = [f"--{option}={folder / path}" for option, path in paths.items()]
    return [*words, "--data.workers=0", "--trainer.log_every_n_steps=1", *more]


def train(folder: Path, name: str, *more: str) -> None:
    torch.manual_seed(0)
    subset = f"--data.subset={folder / 'off' / 'selection' / 'subset.npy'}"
    assert run_verb("fit", arguments(folder, name, subset, *more)) == 0


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def losses(run: Path) -> list[str]:
    return [row["loss"] for row in read(run / "training" / "metrics.csv")]


def scores(run: Path) -> list[tuple[int, str, str, float]]:
    rows = read(run / "training" / "validation.csv")
    return [(int(row["step"]), row["task"], row["metric"], float(row["score"])) for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_training_does_not_notice(workspace: Path, workers: int) -> None:
    run = workspace / f"on{workers}"
    tasks = ["--validation.tasks=[imagenet1k,vtab/dtd]", f"--evaluation.workers={workers}"]
    train(workspace, run.name, *tasks, "--validation.every_steps=2")
    assert len(losses(run)) == 10
    assert losses(run) == losses(workspace / "off")
    weights = ["training/model/open_clip_model.safetensors"]
    assert [file_fingerprint(run / name) for name in weights] == [file_fingerprint(workspace / "off" / weights[0])]
    assert [row[:3] for row in scores(run)] == [(step, key, "acc1") for step in range(2, 11, 2) for key in TASKS]


def test_scores_are_those_of_an_evaluation(workspace: Path) -> None:
    train(workspace, "scored", "--validation.tasks=[imagenet1k,vtab/dtd]", "--validation.every_steps=10")
    clip = load_clip(str(workspace / "scored" / "training" / "model"), None)
    results = evaluate(clip, workspace / "eval", workers=0, machine=Machine("cpu", 1))
    expected = [(10, result["key"], "acc1", result["metrics"]["acc1"]) for result in results]
    assert scores(workspace / "scored") == expected


class FailAt(L.Callback):
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, step: int) -> None:
        if step == 7:
            raise ZeroDivisionError("on purpose")


def test_a_resumed_run_has_every_row_once(workspace: Path, tmp_path: Path) -> None:
    options = {
        "pool": str(workspace / "pool"),
        "out": str(tmp_path),
        "model": str(workspace / "tiny.json"),
        "subset": str(workspace / "off" / "selection" / "subset.npy"),
        **TRAINING,
    }

    def start(*more: L.Callback) -> None:
        module = CLIPModule(str(workspace / "tiny.json"), lr=1e-3, warmup=2)
        path = tmp_path / "training" / "validation.csv"
        callbacks = [Validate(select_tasks(TASKS[:1]), str(workspace / "eval"), path, 2, workers=0), *more]
        data = PoolDataModule(**options, workers=0)
        fit(module, data, tmp_path, Machine("cpu", 1), checkpoint_steps=3, options={"callbacks": callbacks})

    with pytest.raises(ZeroDivisionError):
        start(FailAt())
    before = scores(tmp_path)
    assert [row[0] for row in before] == [2, 4, 6]
    (tmp_path / "training" / "last.ckpt").rename(tmp_path / "kept")
    start_again = torch.load(tmp_path / "kept", weights_only=True)["global_step"]
    assert start_again == 6
    (tmp_path / "kept").rename(tmp_path / "training" / "last.ckpt")
    start()
    assert [row[0] for row in scores(tmp_path)] == [2, 4, 6, 8, 10]
    assert scores(tmp_path)[:3] == before


def test_a_broken_task_is_warned_of(workspace: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    clip = load_clip(str(workspace / "off" / "training" / "model"), None)
    write_random_task(tmp_path / "wds_imagenet1k_test")
    write_random_task(tmp_path / "wds_vtab-dtd_test")
    (tmp_path / "wds_vtab-dtd_test" / "test" / "1.tar").unlink()
    results, failures = evaluate_in_place(clip, tmp_path, select_tasks(TASKS), workers=0)
    assert [result["key"] for result in results] == ["imagenet1k"]
    assert list(failures) == ["vtab/dtd"]
    assert "1.tar does not exist" in failures["vtab/dtd"]
    caplog.clear()
    train(
        workspace,
        "warned",
        f"--eval={tmp_path}",
        "--validation.tasks=[imagenet1k,vtab/dtd]",
        "--validation.every_steps=5",
    )
    assert [row[:2] for row in scores(workspace / "warned")] == [(5, "imagenet1k"), (10, "imagenet1k")]
    assert losses(workspace / "warned") == losses(workspace / "off")
    assert "validation at step 5: vtab/dtd failed: vtab/dtd: " in caplog.text


def test_every_module_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model[1].eval()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    with _set_aside(model):
        assert not any(module.training for module in model.modules())
        torch.rand(3)
    assert [module.training for module in model.modules()] == [True, True, False, False, False]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["nothing"]}, "nothing is no key"),
        ({"tasks": ["cifar10"]}, "wds_cifar10_test does not exist"),
        ({"tasks": ["fairness/utkface"]}, "only reported"),
        ({"tasks": ["imagenet1k"], "every_steps": 0}, "every_steps: must be 1 or more"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(
    workspace: Path, settings: dict, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--validation.{name}={value}" for name, value in settings.items()]
    assert run_verb("fit", arguments(workspace, "refused", *words)) == 1
    assert message in capsys.readouterr().err
    assert not (workspace / "refused").exists()


def test_without_an_evaluation_folder() -> None:
    assert Validation().chosen(None) == []
    with pytest.raises(ClipsiftError, match="--eval is missing"):
        Validation(["imagenet1k"]).chosen(None)


@pytest.mark.slow
def test_two_processes_train_the_same_with_and_without(workspace: Path) -> None:
    subset = f"--data.subset={workspace / 'off' / 'selection' / 'subset.npy'}"
    runs = []
    for name, more in (
        ("two_off", []),
        ("two_on", [f"--validation.tasks={json.dumps(TASKS)}", "--validation.every_steps=2"]),
    ):
        result = program.run(["fit", *arguments(workspace, name, subset, "--trainer.devices=2", *more)])
        assert result.returncode == 0, result.stderr
        runs.append(
            (
                losses(workspace / name),
                file_fingerprint(workspace / name / "training/model/open_clip_model.safetensors"),
            )
        )
    assert runs[0] == runs[1]
    assert [row[:2] for row in scores(workspace / "two_on")] == [
        (step, key) for step in range(2, 11, 2) for key in TASKS
    ]
    clip = load_clip(str(workspace / "two_on" / "training" / "model"), None)
    results, _ = evaluate_in_place(clip, workspace / "eval", select_tasks(TASKS), workers=0)
    last = [(10, result["key"], "acc1", result["metrics"]["acc1"]) for result in results]
    assert scores(workspace / "two_on")[-2:] == last
