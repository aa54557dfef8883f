"""Config files held against the settings that there are, and the file that a wrong setting stands in."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from clipsift_app.includes import read_config
from clipsift_common.errors import ClipsiftError

_FILE = "--config="
# How the parser's messages name a setting; one that a group does not have is named in two words.
_NAMED = re.compile(r"(?:key|option|group) ['\"]([\w.]+)['\"](?: does not accept option '([\w.]+)')?", re.IGNORECASE)


def check_config_files(arguments: Sequence[str], parser: ArgumentParser) -> None:
    """Raise :class:`ClipsiftError` for a key at the top of a config file that is no setting, and for a group of
    settings that holds something else than settings.

    The parser finds an unknown key with a value; one without is nothing to it. A group that is a number or nothing it
    lets pass, one that is a word it takes for a file.
    """
    settings = {action.dest for action in parser._actions if not action.dest.endswith(".help")}
    known = {setting.partition(".")[0] for setting in settings}
    groups = {setting.rpartition(".")[0] for setting in settings}
    for path in (_path(argument) for argument in arguments if argument.startswith(_FILE)):
        values = read_config(path)
        for key in values:
            if key.partition(".")[0] not in known:
                raise ClipsiftError(f"config: {path}: there is no setting {key}; see docs/settings.md, or --help")
        _check_groups(path, values, groups)


def _check_groups(path: Path, values: Mapping[str, Any], groups: Collection[str], prefix: str = "") -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if name in groups and not isinstance(value, dict):
            what = "empty" if value is None else f"a {type(value).__name__}"
            raise ClipsiftError(f"config: {path}: {name} is {what}, not settings; give some, or leave it out")
        if name in groups:
            _check_groups(path, value, groups, f"{name}.")


def naming_file(arguments: Sequence[str], message: str) -> str:
    """A parser's ``message`` with the config file before it that has the setting it is about, if one has."""
    found = _NAMED.search(message)
    setting = ".".join(filter(None, found.groups())) if found else ""
    for argument in reversed(arguments):
        if argument.startswith(f"--{setting}"):
            return message
        if argument.startswith(_FILE) and _has(read_config(path := _path(argument)), setting):
            return f"config: {path}: {message}"
    return message


def _has(values: Any, setting: str) -> bool:
    """Whether ``setting`` (``a.b.c``), or something in its place, is in a config's values."""
    if not isinstance(values, dict):
        return True
    rests = [(setting.removeprefix(name), value) for name, value in values.items() if setting.startswith(name)]
    return any(not rest or (rest[0] == "." and _has(value, rest[1:])) for rest, value in rests)


def _path(argument: str) -> Path:
    return Path(argument.removeprefix(_FILE))
