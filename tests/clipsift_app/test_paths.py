"""``~`` wherever a path may stand: in YAML, on the command line, deep inside a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from clipsift_app.parsing import parse_run
from clipsift_app.paths import absolute, expand_home
from clipsift_app.program import run_verb
from helpers.workspace import TRAINING, write_workspace
from selection.subset import Subset


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_workspace(folder)
    for name in ("a", "b"):
        uids = np.array([(0, ord(name)), (0, 99)], dtype="u8,u8")
        np.save(folder / f"{name}.npy", uids)
        np.save(folder / f"{name}_target.npy", np.eye(3, 16, dtype=np.float32))
    return folder


def settings(home: str) -> dict[str, Any]:
    """A run in which every kind of path stands, below ``home``."""
    combined = [{"score": "normsim", "target": f"{home}/a_target.npy"}, {"score": "clip_score"}]
    return {
        **{name: f"{home}/{name}" for name in ("pool", "trusted", "eval", "out", "cache")},
        "truth": f"{home}/config.yaml",
        "model": {"model": f"{home}/tiny.json", "lr": 1e-3, "warmup": 2},
        "data": {**TRAINING, "subset": f"{home}/b.npy"},
        "selection": {
            "teacher": {"model": f"{home}/tiny.json", "train": dict(TRAINING)},
            "within": f"{home}/a.npy",
            "union": [f"{home}/a.npy", f"{home}/b.npy"],
            "intersect": [f"{home}/b.npy"],
            "subtract": [f"{home}/a.npy"],
            "steps": [
                {"score": "normsim", "target": f"{home}/b_target.npy", "keep": 0.5},
                {"score": "rank_sum", "of": combined, "keep": 0.4},
            ],
        },
        "trainer": {
            "accelerator": "cpu",
            "default_root_dir": f"{home}/lightning",
            "logger": [{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": f"{home}/csv"}}],
        },
    }


def test_a_config_with_tildes_is_the_config_without(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(world))
    runs = []
    for number, home in enumerate((str(world), "~")):
        path = world / f"{number}.yaml"
        path.write_text(yaml.safe_dump(settings(home)))
        runs.append(parse_run([f"--config={path}"]))
    spelled_out, with_tilde = runs
    assert with_tilde.resolved == spelled_out.resolved
    assert with_tilde == spelled_out
    assert "~" not in with_tilde.resolved


def test_the_command_line_too(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(world))
    assert run_verb("subset", ["union", "~/a.npy", "~/b.npy", "--out=~/both.npy"]) == 0
    assert len(Subset.load(world / "both.npy")) == 3
    base = [f"--config={world / 'config.yaml'}"]
    run = parse_run(
        [
            *base,
            "--pool=~/pool/shards/00000000.tar::~/pool/shards/00000001.tar",
            "--out=~/run",
            "--selection.within=~/a.npy",
        ]
    )
    assert run.pool == f"{world}/pool/shards/00000000.tar::{world}/pool/shards/00000001.tar"
    assert (run.out, run.selection.within) == (world / "run", str(world / "a.npy"))


def test_only_a_path_that_begins_with_it_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    for text in ("a~", "~x", "s3://bucket/~/x", "pipe:cat ~/x"):
        assert expand_home(text) == text
    assert expand_home({"a": ["~", {"b": "~/c"}], "n": 1, "none": None}) == {
        "a": ["/h", {"b": "/h/c"}],
        "n": 1,
        "none": None,
    }


@pytest.mark.parametrize("place", ["a\0b", "b" * 300, "file/run", "file"])
@pytest.mark.parametrize("setting", ["out", "cache"])
def test_a_place_that_cannot_be_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, setting: str
) -> None:
    config = write_workspace(tmp_path)
    (tmp_path / "file").write_text("here first")
    places = {"out": tmp_path / "run", "cache": tmp_path / "cache"} | {setting: tmp_path / place}
    steps = "--selection={teacher: null, steps: [{score: random, keep: 0.5}], embedding: {workers: 1}}"
    options = [f"--{name}={path}" for name, path in places.items()]
    assert run_verb("select", [f"--config={config}", steps, *options]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    remedy = r"file is a file\); mend that" if place.startswith("file") else "cannot be a path .*; give another"
    assert re.match(rf"clipsift: error: .*{tmp_path}.*{remedy}", line), line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cc3m::cc12m", "{here}/cc3m::{here}/cc12m"),
        ("cc3m::s3://bucket/cc12m::/data/x", "{here}/cc3m::s3://bucket/cc12m::/data/x"),
        ("{{cc3m,cc12m}}/*.tar::pipe:cat x.tar", "{here}/{{cc3m,cc12m}}/*.tar::pipe:cat x.tar"),
        ("cc3m/[01].tar", "{here}/cc3m/[01].tar"),
        ("c[1] {{2}}", "{here}/c[1] {{2}}"),
    ],
)
def test_each_of_joined_pools_and_patterns_is_made_absolute(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cc3m", "cc12m", "c[1] {2}"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute(given.format()) == expected.format(here=tmp_path)
