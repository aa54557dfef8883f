"""The program by part: what contradicts itself is refused before anything is loaded; parts and select make a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsift_app.program import run_verb
from helpers.scored_pool import write_scored_pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("program")
    write_scored_pool(folder, (40, 30, 50))
    (folder / "run.yaml").write_text(
        f"pool: {folder / 'pool'}\nmax_loss: 0.1\ntrainer: {{accelerator: cpu}}\n"
        "selection: {features: l14, per_file: true, steps: [{score: clip_score, keep: 0.5}]}\n"
    )
    return folder


def score(folder: Path, *arguments: str, out: str = "run") -> int:
    return run_verb("score", [f"--config={folder / 'run.yaml'}", f"--out={folder / out}", *arguments])


@pytest.mark.parametrize("part", ["0/0", "4/3", "0/3", "3", "1/0", "a/b", "-1/3"])
def test_no_part_is_refused(folder: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder, f"--part={part}", out="refused") == 1
    assert capsys.readouterr().err.startswith(f"clipsift: error: part: {part!r} is no part")
    assert not (folder / "refused").exists()


def test_a_part_without_its_number_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(folder, "--part", out="refused") == 1
    assert "is no part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["--trainer.devices=2"], {}, r"trainer.devices x trainer.num_nodes is 2 here; say --trainer.devices 1"),
        ([], {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, r"torchrun has started 2 processes; start one"),
        (["--engine=ray"], {}, "contradict each other"),
    ],
)
def test_a_part_is_no_group(
    folder: Path,
    arguments: list[str],
    variables: dict[str, str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert score(folder, "--part=1/2", *arguments, out="refused") == 1
    assert said in capsys.readouterr().err
    assert not (folder / "refused").exists()


def test_what_ray_does_not_do_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = [f"--config={folder / 'run.yaml'}", f"--out={folder / 'refused'}", "--engine=ray"]
    trains = ["--model={model: ViT-B-32, lr: 1e-3, warmup: 2}", "--data={samples_seen: 8, global_batch: 4}"]
    assert run_verb("fit", [*config, *trains]) == 1
    assert "engine: ray embeds and scores, and fit trains, too" in capsys.readouterr().err
    assert run_verb("select", [*config, "--trainer.devices=2"]) == 1
    assert "engine: ray: works without a process group" in capsys.readouterr().err
    assert not (folder / "refused").exists()


def test_parts_and_then_select(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    select = [f"--config={folder / 'run.yaml'}", f"--out={folder / 'run'}"]
    assert score(folder, "--part", "2/2") == 0
    assert "score: part 2/2: 30 pairs" in capsys.readouterr().out
    assert run_verb("select", select) == 1
    said = capsys.readouterr().err
    assert "parts 1 of 2 are missing (no scores of 0000, 0002); clipsift score --part 1/2 makes" in said
    assert score(folder, "--part=1/2") == 0
    assert "score: part 1/2: 90 pairs; 1 bad_features" in capsys.readouterr().out
    assert run_verb("select", select) == 0
    assert score(folder, out="whole") == 0
    assert run_verb("select", [select[0], f"--out={folder / 'whole'}"]) == 0
    subsets = [(folder / name / "selection/subset.npy").read_bytes() for name in ("run", "whole")]
    assert subsets[0] == subsets[1]
    assert "engine: group" in (folder / "run/config.yaml").read_text()
