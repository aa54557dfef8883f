"""What a folder of features says of itself: how they were made, and whether all of them were."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json, write_json

_NOTE = ".embedding.json"  # beside the features; no shard has such a name
DECODED = "version of decoding"
_FINISHED, _PARTS = "finished", "parts"


def claim(folder: Path, how: dict[str, str], parts: int | None = None) -> int | None:
    """Note how the features in ``folder`` are made, and that this has begun.

    Args:
        how: teacher, name, precision and version of decoding.
        parts: into how many the work is split, when this is one of them.

    Returns:
        Into how many parts the work was split that was begun and not finished before; None when it was not split.

    Raises:
        ClipsiftError: when those which are there were made in another way.
    """
    note: dict[str, Any] = {}
    made: dict[str, Any] = how
    if (folder / _NOTE).is_file():
        note = made = {DECODED: "1"} | read_json(folder / _NOTE)
    elif any(folder.glob("*.parquet")):
        made = how | {"precision": "32-true", DECODED: "1"}  # of a release that kept no note: its default
    if differing := [key for key in how if made.get(key) != how[key]]:
        words = ", ".join(f"{key} {made.get(key)}, not {how[key]}" for key in differing)
        raise ClipsiftError(f"{folder}: holds features of {words}; they are never mixed: take another folder")
    before = note.get(_PARTS)
    split = parts or before
    write_json(folder / _NOTE, how | {_FINISHED: False} | ({_PARTS: split} if split else {}))
    return before


def finish(folder: Path, how: dict[str, str]) -> None:
    """Note that all features are there."""
    write_json(folder / _NOTE, how | {_FINISHED: True})


def refuse_unfinished(folders: Iterable[Path]) -> None:
    """Raise :class:`ClipsiftError` for features whose making has begun and not finished: a part of a pool is no pool.

    A folder of another program, or of a release that did not note it, says nothing.
    """
    for folder in folders:
        note = read_json(folder / _NOTE) if (folder / _NOTE).is_file() else {}
        if not note.get(_FINISHED, True):
            by_part = f" by {note[_PARTS]} parts" if _PARTS in note else ""
            raise ClipsiftError(
                f"{folder}: features were begun{by_part} and not finished; clipsift embed, without --part, makes what "
                f"is missing and says that all is there (or delete {_NOTE} there to take what there is for the pool)"
            )
