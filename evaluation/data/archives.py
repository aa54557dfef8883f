"""The tasks that come as one csv and one zip: rows of the table, images straight out of the zip."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.images import IMAGE_EXTENSIONS, ImageError, open_image
from evaluation.tasks import Task

_LONGEST_CELL = 1 << 24  # characters; a caption list is a few hundred


def read_rows(task: Task, path: Path, texts: Sequence[str], lists: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a csv: the columns ``texts`` as they are, the columns ``lists`` out of JSON lists of strings.

    Raises :class:`ClipsiftError` naming task, file and row for a missing file or column, a cell that is no such list.
    """
    csv.field_size_limit(_LONGEST_CELL)
    rows = []
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            for number, cells in enumerate(csv.DictReader(handle), start=1):
                try:
                    row: dict[str, Any] = {column: str(cells[column]) for column in texts}
                    row |= {column: _list_of_strings(cells[column]) for column in lists}
                except (KeyError, ValueError, TypeError) as error:
                    raise ClipsiftError(
                        f"{task.key}: {path} row {number}: bad or missing {first_line(error)}"
                    ) from error
                rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ClipsiftError(f"{task.key}: {path} cannot be read ({first_line(error)})") from error
    if not rows:
        raise ClipsiftError(f"{task.key}: {path} has no rows")
    return rows


def _list_of_strings(cell: str) -> list[str]:
    values = json.loads(cell)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise ValueError(f"list of strings: {cell[:60]}")
    return values


class ZipImages:
    """Images of a zip by position in ``names``; safe to read from any process, also after a fork.

    Made by all ranks together; rank 0 looks what is in it.

    Images keep their own mode: these tasks' reference transforms them before it converts to RGB.

    Args:
        names: file names without folder, with or without extension.

    Raises:
        ClipsiftError: names task, zip and image for a missing or damaged zip, an image that is not in it.
    """

    def __init__(self, task: Task, path: Path, names: Sequence[str]) -> None:
        self.task, self.path = task, path
        self._archive: tuple[int, zipfile.ZipFile] | None = None  # with the process that opened it
        members = on_rank_zero(self._members)
        absent = [name for name in names if name not in members]
        if absent:
            raise ClipsiftError(f"{task.key}: {path} lacks {len(absent)} images, the first is {absent[0]}")
        self.members = [members[name] for name in names]

    def _members(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for member in self._open().namelist():
            path = PurePosixPath(member)
            known = path.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
            if known and not path.name.startswith(".") and "__MACOSX" not in path.parts:
                found.setdefault(path.name, member)
                found.setdefault(path.stem, member)
        return found

    def _open(self) -> zipfile.ZipFile:
        # A fork shares the file's position with its parent: each process opens its own.
        if self._archive is None or self._archive[0] != os.getpid():
            try:
                self._archive = (os.getpid(), zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError) as error:
                raise ClipsiftError(
                    f"{self.task.key}: {self.path} cannot be read ({first_line(error)}); fetch it again"
                ) from error
        return self._archive[1]

    def __len__(self) -> int:
        return len(self.members)

    def name(self, position: int) -> str:
        """Where an image lies, for messages."""
        return f"{self.path} image {self.members[position]}"

    def read(self, position: int) -> tuple[Image.Image, dict[str, Any]]:
        """The image in its own mode. Raises :class:`ClipsiftError` for a broken one."""
        try:
            return open_image(self._open().read(self.members[position])), {}
        except (ImageError, zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise ClipsiftError(f"{self.task.key}: {self.name(position)}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_archive": None}
