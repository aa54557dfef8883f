"""Arguments of the verbs that are no run, and what every verb prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonargparse

from clipsift_app.settings import one_line
from clipsift_common.distributed import barrier, rank
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine


def parse_settings(kind: Callable[..., Any], arguments: list[str], positional: str | None = None) -> Any:
    """Settings of a verb that is no run, from its dataclass; ``positional`` may be given without its ``--name``."""
    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file with these settings.")
    parser.add_class_arguments(kind, None)
    try:
        values = parser.parse_args(arguments).as_dict()
        values.pop("config", None)
        if isinstance(values.get("trainer"), dict):
            values["trainer"] = Machine(**values["trainer"])
        return kind(**values)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ClipsiftError(one_line(error)) from error


def existing_file(path: Path) -> Path:
    """``path``, which must be a file."""
    if not path.is_file():
        raise ClipsiftError(f"{path}: does not exist")
    return path


def say(text: str) -> None:
    """Print on rank 0, when all ranks are here."""
    if rank() == 0:
        print(text)
    barrier()
