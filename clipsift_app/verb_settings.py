"""The settings of a verb that is no run, parsed from its arguments into its dataclass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonargparse

from clipsift_app.config_checks import check_config_files, naming_file
from clipsift_app.includes import with_includes
from clipsift_app.paths import absolute, expand_home
from clipsift_app.run_cli import one_line
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from selection.samples.fields import Fields


def parse_settings(kind: Callable[..., Any], arguments: list[str], positional: str | None = None) -> Any:
    """The dataclass ``kind`` filled in; ``positional`` may be given first, without its ``--name``.

    Raises:
        ClipsiftError: one line, for an unknown key, a wrong type, a key that is missing.
    """
    if positional and arguments and not arguments[0].startswith("-"):
        arguments = [f"--{positional}", *arguments]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=jsonargparse.ActionConfigFile, help="YAML file with these settings.")
    parser.add_class_arguments(kind, None)
    try:
        arguments = with_includes(arguments)
        check_config_files(arguments, parser)
        values = expand_home(parser.parse_args(arguments).as_dict())
        values.pop("config", None)
        if values.get("model"):
            values["model"] = absolute(values["model"])  # may be one of the packaged JSON files
        if isinstance(values.get("trainer"), dict):
            values["trainer"] = Machine(**values["trainer"])
        if isinstance(values.get("fields"), dict):
            values["fields"] = Fields(**values["fields"])
        return kind(**values)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ClipsiftError(naming_file(arguments, one_line(error))) from error
