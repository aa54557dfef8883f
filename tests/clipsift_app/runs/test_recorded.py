"""A run directory is never overwritten: other settings are refused before anything is touched."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipsift_app.parsing import parse_run
from clipsift_app.program import run_verb
from clipsift_app.recorded import MAY_CHANGE, check_recorded, differences, flat
from clipsift_common.errors import ClipsiftError
from helpers.workspace import write_workspace
from training.data import PoolDataModule
from training.fit import run_settings
from training.model import CLIPModule


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_workspace(folder)
    return folder


@pytest.fixture(scope="module")
def resolved(workspace: Path) -> str:
    return parse_run([f"--config={workspace / 'config.yaml'}", f"--out={workspace / 'run'}"]).resolved


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int | float) else f"{value}x"


def keys(settings: Any, key: str = "") -> list[str]:
    """All dotted keys, those without a value too."""
    if isinstance(settings, dict) and settings:
        return [name for part, inner in settings.items() for name in keys(inner, f"{key}.{part}" if key else part)]
    return [key]


def test_every_setting_that_is_not_said_to_be_free_is_missed_when_it_changes(resolved: str, workspace: Path) -> None:
    """Those without a value too, except in a section or for a folder that a stage has not asked for yet."""
    settings = yaml.safe_load(resolved)
    now = flat(settings)
    names = {*now, *keys(settings)} - {"eval", "trusted"}
    assert len(names) > 100
    for name in names:
        then = now | {name: other(now.get(name, 3))}
        if isinstance(then[name], str) and then[name].startswith("/"):
            Path(then[name]).touch()
        free = any(fnmatch(name, pattern) for pattern in MAY_CHANGE)
        assert list(differences(then, now)) == ([] if free else [name])


def test_what_a_training_depends_on_is_not_free() -> None:
    """By the training's own account of what makes it the experiment it is."""
    module = CLIPModule("ViT-B-32", lr=1e-3, warmup=2)
    data = PoolDataModule("pool", "out", "ViT-B-32", 16, 16)
    data.subset_fingerprint = lambda: "of a subset"  # type: ignore[method-assign]
    names = [name for name in run_settings(module, data) if name not in ("model.architecture", "data.subset")]
    assert len(names) > 12
    for name in [*names, "trainer.precision", "trainer.gradient_clip_val"]:
        assert not any(fnmatch(name, pattern) for pattern in MAY_CHANGE), name


def test_a_file_that_has_moved_is_no_difference(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    then, now = {"pool": str(tmp_path / "pool")}, {"pool": str(tmp_path / "moved")}
    assert list(differences(then, now)) == ["pool"]
    (tmp_path / "pool").rename(tmp_path / "moved")
    assert not differences(then, now)


def test_what_no_stage_has_used_may_still_change() -> None:
    """A pool that was selected from may be trained on in another way; what was trained may not."""
    then, now = {"model.lr": 1, "selection.normalise": True}, {"model.lr": 2, "selection.normalise": False}
    assert list(differences(then, now, ["selection"])) == ["selection.normalise"]
    assert list(differences(then, now, ["training"])) == ["model.lr"]


def test_a_directory_that_holds_nothing_yet_takes_other_settings(resolved: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed_everything: 99")
    assert check_recorded(tmp_path, resolved)


def test_a_record_that_is_not_understood_is_not_overwritten(resolved: str, tmp_path: Path) -> None:
    (tmp_path / "selection").mkdir()
    (tmp_path / "config.yaml").write_text("no_such_key: 1")
    with pytest.raises(ClipsiftError, match=r"config\.yaml: is not understood"):
        check_recorded(tmp_path, resolved)


def test_the_program_shows_the_difference_and_writes_nothing(
    workspace: Path, resolved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (out / "selection").mkdir(parents=True)
    (out / "config.yaml").write_text(resolved)
    common = [f"--config={workspace / 'config.yaml'}", f"--out={out}"]
    assert run_verb("select", [*common, "--seed_everything=7", "--max_loss=0.5"]) == 1
    assert {path.name for path in out.rglob("*")} == {"selection", "config.yaml", ".lock"}
    assert (out / "config.yaml").read_text() == resolved
    said = capsys.readouterr().err
    assert f"{out}: was made with other settings" in said
    assert "seed_everything: 0, now 7" in said
    for way_out in ("another --out", f"--config {out}/config.yaml", "delete the folder"):
        assert way_out in said


def test_a_verb_with_fewer_settings_leaves_the_record_of_a_whole_run(workspace: Path, resolved: str) -> None:
    out = workspace / "whole"
    shutil.rmtree(out, ignore_errors=True)
    (out / "training").mkdir(parents=True)
    (out / "config.yaml").write_text(resolved)
    arguments = [f"--config={workspace / 'config.yaml'}", f"--out={out}"]
    less = parse_run(arguments, needs_eval=False, trains=False)
    values = yaml.safe_load(less.resolved)
    del values["model"], values["data"]
    assert not check_recorded(out, yaml.safe_dump(values))
