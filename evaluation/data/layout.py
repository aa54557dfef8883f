"""What an evaluation folder must hold, task by task, and whether it does: no network, no model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import read_json
from evaluation.data.prompts import read_lines
from evaluation.tasks import Task

MANIFEST_NAME = "manifest.json"

_OWNER = "djghosh"  # of the repositories that DataComp's download script fetches its folders of tars from
_FILES = ("classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt")
_SHARD = re.compile(r"test/(0|[1-9][0-9]{0,5})\.tar")


def repository_name(task: Task) -> str:
    """The task's dataset repository on the hub."""
    return task.folder if "/" in task.folder else f"{_OWNER}/{task.folder}"


def expected_files(task: Task) -> list[str]:
    """Files of the task's folder, beside its shards if it has any."""
    return [task.options["table"], task.options["images"]] if _is_archive(task) else list(_FILES)


def belongs(task: Task, name: str) -> bool:
    """Whether a file of that name has a place in the task's folder."""
    return name in expected_files(task) or (not _is_archive(task) and _SHARD.fullmatch(name) is not None)


def shard_paths(task: Task, folder: Path) -> list[Path]:
    """``test/0.tar`` ... as many as ``test/nshards.txt`` says, whether they are there or not."""
    counter = folder / "test" / "nshards.txt"
    text = read_lines(task, counter)[0]
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ClipsiftError(f"{task.key}: {counter} says {text[:40]!r}, not a number of shards")
    return [counter.with_name(f"{number}.tar") for number in range(int(text))]


def find_shards(task: Task, folder: Path) -> list[Path]:
    """The task's tars. Raises :class:`ClipsiftError` if there are more or fewer than ``test/nshards.txt`` says."""
    shards = shard_paths(task, folder)
    says = f"but {folder / 'test' / 'nshards.txt'} says {len(shards)}; fetch the task again"
    for shard in shards:
        if not shard.is_file():
            raise ClipsiftError(f"{task.key}: {shard} does not exist, {says}")
    surplus = shards[0].with_name(f"{len(shards)}.tar")
    if surplus.exists():
        raise ClipsiftError(f"{task.key}: {surplus} exists, {says}")
    return shards


def check(folder: str | Path, tasks: Sequence[Task], checksums: bool = False) -> list[str]:
    """What is missing or damaged, one line each; nothing is read but names, sizes and, if asked for, contents.

    A folder that :func:`evaluation.data.download.download` has completed is compared with its manifest; another one can
    only be found to lack files.

    Args:
        folder: the evaluation folder.
        checksums: compare contents with the manifest as well (reads everything).
    """
    problems = []
    for task in tasks:
        path = Path(folder) / task.folder
        if not path.is_dir():
            problems.append(f"{task.key}: {path} does not exist")
        elif (path / MANIFEST_NAME).is_file():
            problems += [f"{task.key}: {problem}" for problem in _compare(path, checksums)]
        else:
            problems += _incomplete(task, path)
    return problems


def _compare(folder: Path, checksums: bool) -> list[str]:
    problems = []
    try:
        files = [
            (name, file["size"], file["sha256"]) for name, file in read_json(folder / MANIFEST_NAME)["files"].items()
        ]
    except (ClipsiftError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder / MANIFEST_NAME} cannot be read ({first_line(error)})"]
    for name, size, sha256 in files:
        path = folder / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != size:
            problems.append(f"{path} has {path.stat().st_size} bytes, not {size}")
        elif checksums and _sha256(path) != sha256:
            problems.append(f"{path} is damaged: its SHA-256 is not the manifest's")
    return problems


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _incomplete(task: Task, folder: Path) -> list[str]:
    wanted = [folder / name for name in expected_files(task)]
    try:
        if not _is_archive(task):
            wanted += shard_paths(task, folder)
        missing = [path for path in wanted if not path.is_file()]
        if not missing and not _is_archive(task):
            find_shards(task, folder)
    except ClipsiftError as error:
        return [str(error)]
    return [f"{task.key}: {path} is missing" for path in missing]


def _is_archive(task: Task) -> bool:
    return "table" in task.options
