"""Config files made of others: ``include: [FILE, ...]`` at the top of one."""

from __future__ import annotations

from pathlib import Path

import yaml

from clipsift_app.config_files import find_config
from clipsift_common.errors import ClipsiftError


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
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClipsiftError(f"config: {path} is not YAML ({' '.join(str(error).split())})") from error
    included = values.get("include") if isinstance(values, dict) else None
    parents = (*parents, path.resolve())
    return [file for part in included or [] for file in _files(str(part), path.parent, parents)] + [path]
