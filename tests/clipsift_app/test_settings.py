from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipsift_app.config_files import CONFIGS
from clipsift_app.includes import with_includes
from clipsift_app.parsing import parse_run
from clipsift_common.errors import ClipsiftError
from helpers.pools import write_pool

FILES = sorted(CONFIGS.rglob("*.yaml"))
# A config that is deleted by accident fails here.
NUM_CONFIGS = {"demo": 5, "laptop.yaml": 1, "recipe": 20, "reproduce": 52, "scale": 7, "trainer": 4}


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """Arguments of a run that is in order."""
    write_pool(tmp_path / "pool", {"0": 2})
    (tmp_path / "eval").mkdir()
    return [
        f"--config={CONFIGS / 'demo/base.yaml'}",
        f"--pool={tmp_path / 'pool'}",
        f"--trusted={tmp_path / 'pool'}",
        f"--eval={tmp_path / 'eval'}",
        f"--out={tmp_path / 'run'}",
    ]


def test_files_add_up_and_the_command_line_wins(base: list[str], tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("selection: {steps: [{score: clip_score, keep: 0.25}]}\nmodel: {lr: 0.5}\n")
    run = parse_run([*base, f"--config={tmp_path / 'more.yaml'}", "--model.warmup=7"])
    assert run.selection.steps == [{"score": "clip_score", "keep": 0.25}]
    assert (run.model["lr"], run.model["warmup"]) == (0.5, 7)
    assert run.selection.teacher is not None  # from base.yaml
    assert run.data["pool"] == run.pool == str(tmp_path / "pool")


def test_a_saved_config_alone_gives_the_same_settings(
    base: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = [argument.replace(f"{tmp_path}/", "") for argument in base]
    run = parse_run([*relative, "--seed_everything=5", "--name=mine"])
    run.save()
    monkeypatch.chdir("/")
    again = parse_run([f"--config={tmp_path / 'run/config.yaml'}"])
    differing = [name for name in vars(run) if getattr(run, name) != getattr(again, name)]
    assert differing == []
    assert (again.seed, again.data["seed"], again.model["seed"]) == (5, 5, 5)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--selection.stpes=[]", "stpes"),
        ("--nonsense=1", "nonsense"),
        ("--model.model=coca_ViT-B-32", "coca_ViT-B-32 is a CoCa"),
        ("--model.model=coca_roberta-ViT-B-32", "CoCa|cannot be reached"),
        ("--model.lr=fast", "model.lr"),
        ("--data.global_batch=0", "global_batch"),
        ("--data.decode=gpu", "data.decode: gpu needs a GPU; take fast"),
        ("--selection.steps=[{score: clip_score, keep: 1.5}]", r"keep is a fraction in \(0, 1\], got 1.5"),
        ("--selection.steps=[{score: clip_score, keep: 0}]", "got 0"),
        ("--selection.union=[nowhere.npy]", r"nowhere\.npy does not exist"),
        ("--selection.teacher.pretrained=openai", "pretrained and train contradict"),
        ("--selection.teacher.train=null", "has no weights"),
        ("--selection.features=l14", "teacher and features contradict"),
        ("--max_loss=2", r"max_loss is a share in \[0, 1\]"),
        ("--trainer.max_steps=10", "data.samples_seen"),
        ("--pool=/nowhere", "/nowhere does not exist"),
        ("--trusted=/nowhere", "/nowhere does not exist"),
        ("--eval=/nowhere", "/nowhere does not exist"),
        ("--model.model=ViT-Z-99", "ViT-Z-99"),
        ("--model.model=nowhere.json", r"nowhere\.json does not exist"),
        ("--evaluation.tasks=[imagenet99]", "imagenet99"),
        ("--evaluation.rules=mine", "rules"),
        ("--config=/nowhere.yaml", r"/nowhere\.yaml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(base: list[str], argument: str, words: str) -> None:
    with pytest.raises(ClipsiftError, match=words) as caught:
        parse_run([*base, argument])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("missing", ["pool", "out", "eval"])
def test_a_missing_place_is_named(base: list[str], missing: str) -> None:
    with pytest.raises(ClipsiftError, match=missing):
        parse_run([argument for argument in base if not argument.startswith(f"--{missing}=")])


def test_no_config_was_lost() -> None:
    folders = [path.relative_to(CONFIGS).parts[0] for path in FILES]
    assert Counter(folders) == NUM_CONFIGS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_config_loads(base: list[str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path(word.removeprefix("--config=")) for word in with_includes([f"--config={path}"])]
    for name in re.findall(r"\b((?:targets|subsets)/\w+(?:\.npy)?)", "".join(file.read_text() for file in files)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    values: dict[str, Any] = {}
    for file in files:
        values |= yaml.safe_load(file.read_text())
    no_teacher = ["--selection.teacher=null"] if values.get("selection", {}).get("features") else []
    run = parse_run([*base, *no_teacher, f"--config={path}"])
    for key, value in values.get("data", {}).items():
        assert run.data[key] == value
    assert len(run.selection.check(run.trusted).steps) == len(values.get("selection", {}).get("steps", []))
