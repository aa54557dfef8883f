"""A task's class names and prompt templates: its folder's, or clip_benchmark's where the folder has none."""

from __future__ import annotations

import hashlib
import json
import logging
from importlib.util import find_spec
from pathlib import Path

from clipsift_common.errors import ClipsiftError, first_line
from evaluation.tasks import Task

logger = logging.getLogger("clipsift")

CLASSNAMES = "en_classnames.json"
TEMPLATES = "en_zeroshot_classification_templates.json"

# Prompts decide the score. Another version's are refused, not used without a word.
SHA256 = {
    CLASSNAMES: "73d279021a4bc88059884d01fae66c35ec33793ede8bc9ae54c46632625c4993",
    TEMPLATES: "b78cc883ce1d6aefd304f180046ee25e778d627e099222fbcc57f01657c53c31",
}
# What clip_benchmark calls a task where that is not the last word of our key.
_NAMES = {
    CLASSNAMES: {"vtab/caltech101": "caltech101_vtab"} | dict.fromkeys(["imagenet_sketch", "imagenetv2"], "imagenet1k"),
    TEMPLATES: dict.fromkeys(
        ["imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet"], "imagenet1k"
    ),
}
_PREFIXES = ("", "vtab")  # the tasks that clip_benchmark knows; a namesake elsewhere would be another data set


def read_lines(task: Task, path: Path) -> list[str]:
    """The stripped lines of a small text file; blank ones are kept, except at the end."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise ClipsiftError(f"{task.key}: {path} cannot be read ({first_line(error)})") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ClipsiftError(f"{task.key}: {path} is empty")
    return lines


def read_classnames(task: Task, folder: Path) -> list[str]:
    """Class names by label. A blank line in between is a class without a name.

    clip_benchmark's where the folder has no ``classnames.txt``, as with the templates.
    """
    return _lines_or_packaged(task, folder / "classnames.txt", CLASSNAMES)


def read_templates(task: Task, folder: Path) -> list[str]:
    """Prompt templates; ``{c}`` stands for the class name."""
    path = folder / "zeroshot_classification_templates.txt"
    return [line for line in _lines_or_packaged(task, path, TEMPLATES) if line]


def _lines_or_packaged(task: Task, path: Path, packaged: str) -> list[str]:
    if not path.exists() and (lines := packaged_lines(task, packaged)):
        return lines
    return read_lines(task, path)


def packaged_lines(task: Task, file: str) -> list[str] | None:
    """Class names by label, or templates with ``{c}``, of ``task``; None where clip_benchmark has none.

    Args:
        file: :data:`CLASSNAMES` or :data:`TEMPLATES`.

    Raises:
        ClipsiftError: if the installed clip_benchmark's file is not the one that is known.
    """
    prefix, _, last = task.key.rpartition("/")
    if prefix not in _PREFIXES:
        return None
    path = _package() / "datasets" / file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ClipsiftError(f"{task.key}: {path} cannot be read ({first_line(error)})") from error
    if hashlib.sha256(data).hexdigest() != SHA256[file]:
        raise ClipsiftError(
            f"{task.key}: {path} is not clip_benchmark 1.6.2's, other prompts give other scores; "
            "fetch the task again for its own"
        )
    lines = json.loads(data).get(_NAMES[file].get(task.key, last))
    if lines is not None:
        logger.warning("%s: its folder has none of its own, so it gets clip_benchmark's %s", task.name, file)
    return lines


def _package() -> Path:
    spec = find_spec("clip_benchmark")  # importing it would take seconds
    if spec is None or spec.origin is None:
        raise ClipsiftError("clip_benchmark is not installed")
    return Path(spec.origin).parent
