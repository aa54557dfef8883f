"""Is a caption English, as DataComp's filters ask fastText's language identification?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipsift_common.errors import ClipsiftError, first_line

Language = str | Literal[False]  # YAML reads the word off as false


def is_english(captions: Sequence[str], language: Language) -> np.ndarray:
    """(n,) bool by the fastText model file ``language`` (``lid.176.bin``); all true when it is ``off``.

    Raises :class:`ClipsiftError` if the file or the package fasttext is not there.
    """
    if language is False or language == "off":
        return np.ones(len(captions), bool)
    labels, _ = _model(language, _stamp(language)).predict([caption.replace("\n", " ") for caption in captions])
    return np.array([label[0] == "__label__en" for label in labels], bool)


def _stamp(path: str) -> tuple[int, int]:
    """Changes when the file does, so that a long-lived process reads it again."""
    about = Path(path).stat() if Path(path).is_file() else None
    return (about.st_size, about.st_mtime_ns) if about else (0, 0)


@cache
def _model(path: str, stamp: tuple[int, int]) -> Any:
    if not Path(path).is_file():
        raise ClipsiftError(f"language: {path} does not exist; give fastText's lid.176.bin (see fasttext.cc) or off")
    try:
        import fasttext  # type: ignore[import-not-found]
    except ImportError as error:
        raise ClipsiftError("language: needs the package fasttext (pip install fasttext), or set it to off") from error
    try:
        return fasttext.load_model(path)
    except ValueError as error:
        raise ClipsiftError(f"language: {path} is no fastText model ({first_line(error)})") from error
