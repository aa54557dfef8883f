"""Config files by name: the user's own first, then those that come with the program."""

from __future__ import annotations

from collections.abc import Iterator
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
        for candidate in (path, path.with_name(f"{path.name}.yaml")):
            if candidate.is_file():
                return candidate
    return None


def packaged_configs() -> Iterator[tuple[str, str]]:
    """(name for ``--config``, the first sentence of its head) of every packaged config."""
    for path in sorted(CONFIGS.rglob("*.yaml")):
        yield str(path.relative_to(CONFIGS).with_suffix("")), _headline(path)


def _headline(path: Path) -> str:
    """What the comment at the head of a file says first, up to the end of its sentence or paragraph."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text or line.startswith("#   "):
            break
        words.append(text)
        if text.endswith((".", ":")):
            break
    return " ".join(words).rstrip(":.")
