"""Damaged and odd config files: the settings that were written, or one line that names the file."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_common.errors import ClipsiftError
from helpers.mutations import NUM_WAYS, mutate, strangers
from helpers.workspace import write_workspace

pytestmark = pytest.mark.slow

ODD: list[Any] = [
    None, True, -1, 0, 3, 1 << 70, 2.5, float("nan"), float("inf"), "", "word", "a\0b", "x" * 5000, "~", "é\u200b",
    [], [None], [[]], {}, {"a": None}, {"class_path": "os.system", "init_args": {"command": "touch sprung"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parse(path: Path) -> RunSettings | str:
    """The settings, or the line that refuses them. Other exceptions fail the test."""
    try:
        return parse_run([f"--config={path}", f"--out={path.parent / 'run'}"])
    except ClipsiftError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 6000
    return message


def _places(values: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value stands, of every value in a config."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [place, *(found for key, part in inside for found in _places(part, (*place, key)))]


def _put(values: Any, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    changed = deepcopy(values)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    change(holder, place[-1])
    return changed


@pytest.mark.parametrize("seed", range(5 * len(ODD)))
def test_another_value_in_some_place(config: Path, tmp_path: Path, mark: Path, seed: int) -> None:
    written = yaml.safe_load(config.read_text())
    draw = random.Random(seed)
    place, odd = draw.choice(_places(written)[1:]), ODD[seed % len(ODD)]
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(_put(written, place, lambda holder, key: holder.__setitem__(key, odd))))
    found = parse(path)
    names = (str(path), *map(str, place), repr(odd)[:20])  # the file, the setting, or a path that is none
    assert isinstance(found, RunSettings) or any(name in found for name in names if name), found
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("seed", range(NUM_WAYS))
def test_a_key_spelled_otherwise(config: Path, tmp_path: Path, seed: int) -> None:
    """Nothing is left out without a word: an unknown key is refused."""
    written = yaml.safe_load(config.read_text())
    draw = random.Random(seed)
    place = draw.choice([place for place in _places(written) if place and isinstance(place[-1], str)])
    name = "".join(draw.sample(place[-1], len(place[-1]))) + "x"

    def rename(holder: dict[str, Any], key: str) -> None:
        holder[name] = holder.pop(key)

    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(_put(written, place, rename)))
    found = parse(path)
    assert isinstance(found, str), f"{place} as {name}"
    assert name in found or str(place[-1]) in found, found


@pytest.mark.parametrize("seed", range(2 * NUM_WAYS))
def test_changed_bytes(config: Path, tmp_path: Path, seed: int) -> None:
    """Text has no checksum: what is still settings is taken as such, and only as what YAML itself reads in it."""
    mutation = mutate(config.read_bytes(), seed, block=8)
    path = tmp_path / "odd.yaml"
    path.write_bytes(mutation.data)
    run = parse(path)
    if isinstance(run, RunSettings):
        there = yaml.safe_load(mutation.data)
        assert run.pool == there["pool"], mutation.what
        assert run.data["samples_seen"] == there["data"]["samples_seen"], mutation.what
        assert run.selection.steps == there["selection"]["steps"] or "'inf'" in str(run.selection.steps), mutation.what
        assert run.model["lr"] == float(there["model"]["lr"]), mutation.what


@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_a_config(tmp_path: Path, mark: Path, stranger: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(strangers(mark)[stranger])
    with pytest.raises(ClipsiftError) as caught:
        parse_run([f"--config={path}", f"--out={tmp_path / 'run'}"])
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value) or stranger == "nothing"


CODE = [
    "!!python/object/apply:os.system ['touch sprung']",
    "!!python/object/new:os.system ['touch sprung']",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:__main__.Trap {}",
    "!unknown 3",
    "!!binary aGFsbG8=",
    "!!timestamp 2026-01-01",
    "!!set {a, b}",
    "!!omap [a: 1]",
]


@pytest.mark.parametrize("content", CODE)
@pytest.mark.parametrize("key", ["pool", "selection", "name", "seed_everything"])
def test_tags_of_yaml(tmp_path: Path, config: Path, content: str, key: str) -> None:
    lines = [line for line in config.read_text().splitlines() if not line.startswith(f"{key}:")]
    path = tmp_path / "odd.yaml"
    path.write_text("\n".join([f"{key}: {content}", *lines]))
    found = parse(path)
    assert isinstance(found, RunSettings) or str(path) in found or key in found, found
    assert not (tmp_path / "sprung").exists()
