"""Each verb by itself, in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsift_app.program import run_verb
from clipsift_app.verbs import VERBS
from clipsift_common.files import read_json
from helpers.workspace import write_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verbs")
    write_workspace(folder)
    arguments = [f"--config={folder / 'config.yaml'}", f"--out={folder / 'run'}", "--data.workers=0"]
    assert run_verb("fit", arguments) == 0
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "-h"):
        assert run_verb(verb, [word]) == 0
        assert capsys.readouterr().out


def test_fit_selects_first_and_reports_what_was_lost(workspace: Path) -> None:
    assert read_json(workspace / "run/selection/subset.json")["num_kept"] == 36
    report = read_json(workspace / "run/training/data_report.json")
    assert report["training"]["samples"] == 160
    assert report["samples"] == 72 + 160
    assert not (workspace / "run" / "evaluation").exists()


def test_embedded_metadata_selects_like_the_teacher_itself(workspace: Path) -> None:
    model = str(workspace / "run" / "training" / "model")
    arguments = [f"--pool={workspace / 'pool'}", f"--model={model}", f"--out={workspace / 'embedded'}", "--name=mine"]
    assert run_verb("embed", [*arguments, "--pretrained=null", "--workers=0", "--trainer.accelerator=cpu"]) == 0
    table = pq.read_table(workspace / "embedded/metadata/00000001.parquet")
    arrays = np.load(workspace / "embedded/metadata/00000001.npz", allow_pickle=False)
    assert table.num_rows == len(arrays["mine_img"]) == len(arrays["mine_txt"]) == 17
    assert arrays["mine_img"].dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(arrays["mine_img"].astype(np.float32), axis=1), 1, atol=1e-3)

    config = [f"--config={workspace / 'config.yaml'}", "--selection.steps=[{score: clip_score, keep: 0.5}]"]
    direct = [f"--selection.teacher={{model: {model}, train: null}}", f"--out={workspace / 'direct'}"]
    assert run_verb("select", [*config, *direct]) == 0
    features = ["--selection.teacher=null", "--selection.features=mine", f"--pool={workspace / 'embedded'}"]
    assert run_verb("select", [*config, *features, f"--out={workspace / 'by_features'}"]) == 0
    subsets = [(workspace / name / "selection/subset.npy").read_bytes() for name in ("direct", "by_features")]
    assert subsets[0] == subsets[1]


def test_a_run_and_its_weights_evaluate_alike(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [f"--data={workspace / 'eval'}", "--batch_size=4", "--workers=0", "--trainer.accelerator=cpu"]
    assert run_verb("evaluate", [f"--run={workspace / 'run'}", *data]) == 0
    assert "2 of 38" in capsys.readouterr().out
    weights = workspace / "run/training/model/open_clip_model.safetensors"
    model = [f"--model={workspace / 'tiny.json'}", f"--pretrained={weights}", f"--out={workspace / 'by_file'}"]
    assert run_verb("evaluate", [*model, *data, "--tasks=imagenet1k"]) == 0
    by_run = read_json(workspace / "run/evaluation/summary.json")
    by_file = read_json(workspace / "by_file/summary.json")
    assert by_file["imagenet"] == by_run["imagenet"]
    assert (by_run["num_scored"], by_file["num_scored"]) == (2, 1)


def test_report_and_compare_read_a_run(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("report", [str(workspace / "run")]) == 0
    assert "<html" in (workspace / "run/report/index.html").read_text()
    capsys.readouterr()
    assert run_verb("compare", [str(workspace / "run"), "--format=csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("run,")


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("evaluate", ["--data=x"], "say either --run"),
        ("evaluate", ["--data=/nowhere", "--run={run}"], "/nowhere does not exist"),
        ("evaluate", ["--data={eval}", "--run=/nowhere"], "does not exist"),
        ("evaluate", ["--data={eval}", "--model=ViT-B-32", "--pretrained=mine", "--out=x"], "neither a file nor a tag"),
        ("evaluate", ["--data={eval}", "--model={run}/training/model", "--out={out}", "--tasks=nothing"], "nothing"),
        ("evaluate", ["--data={eval}", "--nonsense=1"], "nonsense"),
        ("compare", [], "give the run directories"),
        ("compare", ["/nowhere"], "/nowhere"),
        ("report", ["/nowhere"], "does not exist"),
        ("embed", ["--pool=/nowhere", "--model=ViT-B-32", "--pretrained=x", "--out=x", "--name=x"], "/nowhere"),
        ("demo", ["--seeds=0"], "seeds: at least 1"),
    ],
)
def test_errors_are_one_line(
    workspace: Path, capsys: pytest.CaptureFixture[str], verb: str, arguments: list[str], words: str
) -> None:
    places = {"run": workspace / "run", "eval": workspace / "eval", "out": workspace / "out"}
    assert run_verb(verb, [argument.format(**places) for argument in arguments]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("clipsift: error:")]
    assert len(lines) == 1
    assert words in lines[0]
