"""Config files made of others: ``include: [FILE, ...]`` at the top of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from clipsift_app.config_files import find_config
from clipsift_common.errors import ClipsiftError

MOST_VALUES = 100_000


def with_includes(arguments: list[str]) -> list[str]:
    """Command-line arguments in which each ``--config FILE`` comes after the files that it includes.

    ``FILE`` is found by :func:`clipsift_app.config_files.find_config`, and so are the files it includes, from its own
    folder; its own keys win over theirs.

    Raises:
        ClipsiftError: for a file that includes itself, or one that does not exist.
    """
    found: list[str] = []
    words = iter(arguments)
    for word in words:
        path = next(words, None) if word == "--config" else word.removeprefix("--config=")
        if path is None or (path == word and word != "--config"):
            found.append(word)
        else:
            found += [f"--config={file}" for file in _files(path, Path.cwd(), ())]
    return found


def _files(name: str, folder: Path, parents: tuple[Path, ...]) -> list[Path]:
    path = find_config(name, folder)
    if path is None:
        where = f" ({parents[-1]} includes it)" if parents else "; clipsift configs lists those that come with it"
        raise ClipsiftError(f"config: {name} does not exist{where}")
    if path.resolve() in parents:
        raise ClipsiftError(f"config: {path} includes itself")
    included = read_config(path).get("include") or []
    if not isinstance(included, list):
        raise ClipsiftError(f"config: {path}: include is a list of files, got {included!r}")
    parents = (*parents, path.resolve())
    return [file for part in included for file in _files(str(part), path.parent, parents)] + [path]


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a config file; empty for one that has nothing but comments.

    Raises :class:`ClipsiftError` for a file that cannot be read, is no YAML, holds something else than a mapping, or
    more than :data:`MOST_VALUES` with its aliases written out.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError, ValueError) as error:
        raise ClipsiftError(f"config: {path} is not YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ClipsiftError(f"config: {path} line 1: holds a {type(values).__name__}, not settings such as pool: DIR")
    if _num_values(values, {}) > MOST_VALUES:
        raise ClipsiftError(f"config: {path}: its aliases stand for more than {MOST_VALUES:,} values; write them out")
    return values


def _num_values(values: Any, known: dict[int, float]) -> float:
    """How many values there are with every alias written out; infinity for one that is in itself."""
    if not isinstance(values, dict | list):
        return 1
    if id(values) not in known:
        known[id(values)] = float("inf")  # met again below, it is in itself
        parts = values.values() if isinstance(values, dict) else values
        known[id(values)] = 1 + sum(_num_values(part, known) for part in parts)
    return known[id(values)]
