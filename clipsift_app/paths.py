"""Paths in settings: ``~`` means home wherever one may stand, and none depends on the working directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonargparse

from clipsift_app.config_files import find_config
from clipsift_common.errors import ClipsiftError, first_line
from selection.recipe.step import map_paths

_OUTPUTS = ("out", "cache")  # need not exist
_PATHS = ("pool", "trusted", "eval", *_OUTPUTS, "truth", "model.model", "data.subset", "selection.within")


def expand_home(value: Any) -> Any:
    """``value`` with ``~`` as a shell expands it in every string inside that begins with it.

    Lists and mappings are walked; of several pools joined by ``::`` each may have its own.
    """
    if isinstance(value, str):
        return "::".join(_at_home(part) for part in value.split("::")) if "~" in value else value
    if isinstance(value, dict):
        return {key: expand_home(part) for key, part in value.items()}
    if isinstance(value, list):
        return [expand_home(part) for part in value]
    if isinstance(value, jsonargparse.Namespace):
        for key in list(vars(value)):
            setattr(value, key, expand_home(getattr(value, key)))
    return value


def _at_home(text: str) -> str:
    return os.path.expanduser(text) if text == "~" or text.startswith("~/") else text


def make_absolute(config: jsonargparse.Namespace) -> None:
    """Make the paths of a run's settings absolute, in place, so that the saved config reruns from anywhere."""
    for key in _PATHS:
        if config.get(key):
            config[key] = absolute(config[key], must_exist=key not in _OUTPUTS)
    for part in (config.selection, config.online):
        if part and (teacher := part.teacher):
            teacher.model = absolute(teacher.model)
            teacher.pretrained = teacher.pretrained and absolute(teacher.pretrained)
    for key in ("union", "intersect", "subtract"):
        config.selection[key] = [absolute(path) for path in config.selection[key]]
    for step in [*config.selection.steps, *(config.online.steps if config.online else ())]:
        map_paths(step, absolute)


def absolute(value: str, must_exist: bool = True) -> str:
    """``value`` made absolute if it is a local path, or a file of the packaged configs; else unchanged.

    Of several joined by ``::`` each is.
    """
    if "::" in value:
        return "::".join(absolute(part, must_exist) for part in value.split("::"))
    if "://" in value or value.startswith("pipe:"):
        return value
    here = Path.cwd() / value
    try:
        os.lstat(here)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # a name too long, a forbidden folder, a character that no path has
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ClipsiftError(f"{value[:200]!r}: cannot be a path ({reason}); give another") from error
    if here.exists():
        return str(here.resolve())
    if value.endswith(".json") and (packaged := find_config(value)):
        return str(packaged)
    if must_exist and not any(mark in value for mark in "{*["):
        return value
    return str(here.absolute())


def subset_file(place: str) -> Path:
    """The subset file that ``place`` means: a run directory's, or itself."""
    return Path(place) / "selection" / "subset.npy" if Path(place).is_dir() else Path(place)
