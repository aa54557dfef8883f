"""Config files by name: the user's own first, then those that come with the program."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

_HERE = Path(__file__).resolve().parent

# Installed from a wheel they lie inside this package; in a checkout at its top.
CONFIGS = _HERE / "configs" if (_HERE / "configs").is_dir() else _HERE.parent / "configs"


def find_config(name: str, folder: Path | None = None) -> Path | None:
    """The file that ``--config NAME`` means: ``scale/small``, ``configs/scale/small.yaml``, a path; None without one.

    Looked for, each with and without ``.yaml``: as a path (relative to ``folder``, by default the working directory),
    below ``configs`` there, and among the packaged configs.
    """
    given = Path(name).expanduser()
    inside = Path(*given.parts[1:]) if given.parts[:1] == ("configs",) else given
    base = folder or Path.cwd()
    for path in (base / given, base / "configs" / inside, CONFIGS / inside):
        for candidate in (path, Path(f"{path}.yaml")):
            if candidate.is_file():
                return candidate
    return None


def packaged_configs() -> Iterator[tuple[str, str]]:
    """(name for ``--config``, the first sentence of its head) of every packaged config."""
    for path in sorted(CONFIGS.rglob("*.yaml")):
        yield str(path.relative_to(CONFIGS).with_suffix("")), _headline(path)


def _headline(path: Path) -> str:
    """The first sentence of the comment at the head of a file; an indented line or an empty one ends it too."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = takewhile(lambda line: re.match(r"# ?\S", line), lines)
    sentence, _, _ = " ".join(line.removeprefix("#").strip() for line in head).partition(". ")
    return sentence.rstrip(":.")
