"""The verb ``configs``: the configs that come with the program."""

from __future__ import annotations

from clipsift_app.config_files import find_config, packaged_configs
from clipsift_common.errors import ClipsiftError

_USAGE = "clipsift configs lists them, clipsift configs scale/small prints one"


def run(arguments: list[str]) -> None:
    if arguments in (["--help"], ["-h"]):
        return print(_USAGE)
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        raise ClipsiftError(f"configs: {' '.join(arguments)} is not understood; {_USAGE}")
    if not arguments:
        return _list()
    path = find_config(arguments[0])
    if path is None:
        raise ClipsiftError(f"configs: there is no {arguments[0]}; {_USAGE}")
    print(path.read_text(encoding="utf-8"), end="")


def _list() -> None:
    """One line each, so that ``grep`` finds one."""
    found = list(packaged_configs())
    width = max(len(name) for name, _ in found)
    for name, headline in found:
        print(f"{name:<{width}}  {headline}")
