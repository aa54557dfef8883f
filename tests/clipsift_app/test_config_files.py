"""Every file that a packaged config names can be made by a documented command, or its source is named."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipsift_app.config_files import CONFIGS
from clipsift_app.includes import with_includes
from clipsift_app.verb_settings import parse_settings
from clipsift_app.verbs.target import TargetSettings, check_settings
from clipsift_common.errors import ClipsiftError
from selection.recipe.step import PATH_OPTIONS

FILES = sorted(CONFIGS.rglob("*.yaml"))
SETS = ("union", "intersect", "subtract")


def named_files(values: Any) -> Iterator[str]:
    """What of a config's mapping is a file: options of steps, subsets of set operations."""
    if isinstance(values, list):
        for part in values:
            yield from named_files(part)
    elif isinstance(values, dict):
        for key, value in values.items():
            if key in (*PATH_OPTIONS, "within") and isinstance(value, str) and value not in ("off", "trusted"):
                yield value
            elif key in SETS and isinstance(value, list):
                yield from value
            else:
                yield from named_files(value)


def head(path: Path) -> str:
    """The comments at the top of a config and of those that it includes."""
    texts = [Path(word.removeprefix("--config=")).read_text() for word in with_includes([f"--config={path}"])]
    lines = (line for text in texts for line in text.splitlines() if line.startswith("#"))
    return "\n".join(line.removeprefix("#").strip() for line in lines)


def target_commands(path: Path) -> dict[str, list[str]]:
    """What the commands in a config's head make -> their arguments."""
    lines = re.findall(r"^clipsift target (.+)$", head(path), re.MULTILINE)
    words = [shlex.split(line) for line in lines]
    return {arguments[arguments.index("--out") + 1]: arguments for arguments in words}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_files_are_made_by_a_command_or_have_a_source(path: Path) -> None:
    made = target_commands(path)
    for name in named_files(yaml.safe_load(path.read_text())):
        assert name in made or Path(name).name in head(path), name
        assert name in made or not name.startswith("targets/"), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_the_commands_are_right(path: Path) -> None:
    for out, arguments in target_commands(path).items():
        settings = parse_settings(TargetSettings, arguments, positional="name")
        check_settings(settings)
        assert Path(out).name.startswith(settings.name)  # a file says what is in it


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["imagenet1k", "--out=x.npy", "--model=m"], "needs --data"),
        (["imagenet1k_prompts", "--out=x.npy"], "needs --model"),
        (["pool_centroids", "--out=x.npy", "--pool=p"], "needs --features"),
        (["pool_centroids", "--out=x", "--pool=p", "--features=l14"], r"must end in \.npy"),
        (["pool_centroids", "--out=x.npy", "--pool=p", "--features=l14", "--clusters=0"], "at least 1"),
        (["imagenet2k", "--out=x"], "none is named imagenet2k"),
        (["nothing_prompts", "--out=x.npy", "--model=m"], "none is named nothing_prompts"),
    ],
)
def test_a_wrong_target_is_refused_before_anything_is_loaded(arguments: list[str], message: str) -> None:
    with pytest.raises(ClipsiftError, match=message):
        check_settings(parse_settings(TargetSettings, arguments, positional="name"))
