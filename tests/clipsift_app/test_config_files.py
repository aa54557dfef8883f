"""Configs by name, from any folder: the user's own first, then those that come with the program."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from clipsift_app.config_files import CONFIGS, find_config, packaged_configs
from clipsift_app.includes import with_includes
from clipsift_app.parsing import parse_run
from clipsift_app.program import run_verb
from clipsift_app.verb_settings import parse_settings
from clipsift_app.verbs.embed import EmbedSettings
from clipsift_common.errors import ClipsiftError
from helpers.workspace import write_workspace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["scale/small", "scale/small.yaml", "configs/scale/small", "configs/scale/small.yaml"])
def test_a_packaged_config_is_found_by_each_of_its_names(elsewhere: Path, name: str) -> None:
    packaged = CONFIGS / "scale/small.yaml"
    assert find_config(name) == packaged
    assert find_config(str(packaged)) == packaged
    own = elsewhere / "configs/scale/small.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("name: mine\n")
    assert find_config(name) == own


def test_home_is_where_tilde_is(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    (elsewhere / "home").mkdir()
    (elsewhere / "home/mine.yaml").write_text("include: [~/other]\n")
    (elsewhere / "home/other.yaml").write_text("include: [scale/small]\n")
    files = with_includes(["--config=~/mine", "--name=x"])
    expected = [CONFIGS / "scale/small.yaml", elsewhere / "home/other.yaml", elsewhere / "home/mine.yaml"]
    assert files == [*(f"--config={path}" for path in expected), "--name=x"]


def test_one_that_is_nowhere_is_said_in_one_line() -> None:
    with pytest.raises(ClipsiftError, match="config: scale/smal does not exist; clipsift configs lists"):
        with_includes(["--config", "scale/smal"])
    Path("mine.yaml").write_text("include: [scale/smal]\n")
    with pytest.raises(ClipsiftError, match=r"scale/smal does not exist \(.*mine\.yaml includes it\)"):
        with_includes(["--config", "mine.yaml"])


def test_the_models_that_configs_name_are_found_from_any_folder(elsewhere: Path) -> None:
    write_workspace(elsewhere / "world")
    places = [f"--{name}={elsewhere / 'world' / name}" for name in ("pool", "trusted", "eval")]
    run = parse_run(["--config=laptop", *places, "--out=run"])
    assert run.model["model"] == str(CONFIGS / "model/laptop.json")
    assert run.selection.teacher is not None
    assert run.selection.teacher.model == str(CONFIGS / "model/laptop.json")
    (elsewhere / "configs/model").mkdir(parents=True)
    shutil.copy(elsewhere / "world/tiny.json", "configs/model/laptop.json")
    assert parse_run(["--config=laptop", *places, "--out=run"]).model["model"] == str(
        elsewhere / "configs/model/laptop.json"
    )


def test_a_verb_that_is_no_run_finds_them_too() -> None:
    words = ["--pool=p", "--model=model/demo.json", "--pretrained=null", "--out=o", "--name=n"]
    assert parse_settings(EmbedSettings, words).model == str(CONFIGS / "model/demo.json")
    words[1] = "--model=ViT-B-32"
    assert parse_settings(EmbedSettings, words).model == "ViT-B-32"


def test_every_packaged_config_is_listed_in_one_line_that_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("configs", []) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {f"{name}.yaml" for name in listed} == {str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml")}
    assert listed == dict(packaged_configs())
    for name, headline in listed.items():
        assert f"# {headline}"[:100] in (CONFIGS / f"{name}.yaml").read_text().replace("\n# ", " ")


def test_one_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("scale/small", "trainer/slurm.sh", "model/demo.json"):
        assert run_verb("configs", [name]) == 0
        path = CONFIGS / (name if "." in name else f"{name}.yaml")
        assert capsys.readouterr().out == path.read_text()
    for words in (["scale/smal"], ["scale"], ["a", "b"], ["--all"]):
        assert run_verb("configs", words) == 1


def test_a_recipe_and_a_pool_are_all_that_select_needs(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_workspace(elsewhere / "world")
    Path("recipe.yaml").write_text(yaml.safe_dump({"selection": {"steps": [{"score": "random", "keep": 0.5}]}}))
    assert run_verb("select", ["--config=recipe", "--pool=world/pool", "--out=run"]) == 0
    assert Path("run/selection/subset.npy").is_file()
    assert run_verb("report", ["run"]) == 0  # a run without a training is a run
    assert run_verb("select", ["--config=run/config.yaml"]) == 0
    assert run_verb("fit", ["--config=run/config.yaml"]) == 1
    assert "model.model" in capsys.readouterr().err
