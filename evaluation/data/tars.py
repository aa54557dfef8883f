"""A task's folder of tars, as DataComp's download script leaves it: class names, templates, and samples by position."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from clipsift_common.errors import ClipsiftError
from clipsift_common.images import ImageError, decode_image
from evaluation.data.prompts import CLASSNAMES, TEMPLATES, packaged_lines
from evaluation.tasks import Task

MAX_GROUPS = 256  # values of one metadata column; the largest that is counted by (Camelyon17's slides) has 50
IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")  # the evaluators' order of preference; training prefers another

_MEMBER = re.compile(r"^((?:.*/)?[^./][^.]*)\.([^/]*)$")  # webdataset's key and extension
_PARTS = (*IMAGE_EXTENSIONS, "cls", "npy")  # everything else in a tar is left unread


def read_lines(task: Task, path: Path) -> list[str]:
    """The stripped lines of a small text file; blank ones are kept, except at the end."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise ClipsiftError(f"{task.key}: {path} cannot be read ({_reason(error)})") from error
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


class TarSamples:
    """The samples of a task's tars by position, in tar order.

    Opening reads the tars' headers only. Afterwards any process can read any sample: what is opened is found again
    after a fork or a pickle, and never moved by another process's reading.

    Args:
        task: for error messages.
        folder: the task's folder.
        num_classes: labels (``cls``) must be below this; None: labels are not read.
        columns: names of the metadata columns (``npy``) to give, out of those that the task's options list.

    Raises:
        ClipsiftError: names task, file and sample for a missing tar, a wrong ``nshards.txt``, a damaged tar,
            a sample without a part that is asked for, a task without samples.
    """

    def __init__(self, task: Task, folder: Path, num_classes: int | None, columns: Sequence[str] = ()) -> None:
        self.task, self.num_classes = task, num_classes
        self.num_columns = len(task.options["columns"]) if columns else 0
        self.columns = [task.options["columns"].index(column) for column in columns]
        self.shards = find_shards(task, folder)
        self._handles: dict[int, IO[bytes]] = {}
        names: list[str] = []
        places: list[list[int]] = []
        for number, shard in enumerate(self.shards):
            for key, parts in _scan(task, shard):
                names.append(key)
                places.append([number, *self._places(shard, key, parts)])
        if not names:
            raise ClipsiftError(f"{task.key}: {folder} has no samples")
        self.names = np.array(names)
        self.places = np.array(places, np.int64)  # (n, 7): shard; offset and size of image, cls, npy (-1: not there)

    def _places(self, shard: Path, key: str, parts: dict[str, tuple[int, int]]) -> list[int]:
        image = next((parts[extension] for extension in IMAGE_EXTENSIONS if extension in parts), None)
        wanted = {"image": image}
        if self.num_classes is not None:
            wanted["cls"] = parts.get("cls")
        if self.columns:
            wanted["npy"] = parts.get("npy")
        for name, place in wanted.items():
            if place is None:
                raise ClipsiftError(f"{self.task.key}: {shard} sample {key} has no {name}; fetch the folder again")
        return [*wanted["image"], *(wanted.get("cls") or (-1, -1)), *(wanted.get("npy") or (-1, -1))]  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.names)

    def name(self, position: int) -> str:
        """Where a sample lies, for messages."""
        return f"{self.shards[self.places[position, 0]]} sample {self.names[position]}"

    def read(self, position: int) -> tuple[Image.Image, dict[str, Any]]:
        """The RGB image, with ``label`` (int) and ``metadata`` ((columns,) int64) if they are asked for.

        Raises :class:`ClipsiftError` for a broken image, a label that no class has, a bad metadata vector.
        """
        shard, image, image_size, cls, cls_size, npy, npy_size = self.places[position].tolist()
        values: dict[str, Any] = {}
        try:
            if self.num_classes is not None:
                values["label"] = self._label(self._bytes(shard, cls, cls_size))
            if self.columns:
                values["metadata"] = self._metadata(self._bytes(shard, npy, npy_size))
            return decode_image(self._bytes(shard, image, image_size)), values
        except (ImageError, ValueError, OSError) as error:
            raise ClipsiftError(f"{self.task.key}: {self.name(position)}: {_reason(error)}") from error

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        if shard not in self._handles:
            self._handles[shard] = open(self.shards[shard], "rb")  # noqa: SIM115 (kept open for the samples to come)
        return os.pread(self._handles[shard].fileno(), size, offset)

    def _label(self, data: bytes) -> int:
        label = int(data)
        if not 0 <= label < (self.num_classes or 0):
            raise ValueError(f"label {label} is not below {self.num_classes}, the number of lines in classnames.txt")
        return label

    def _metadata(self, data: bytes) -> torch.Tensor:
        vector = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
        if vector.ndim != 1 or len(vector) < self.num_columns:
            raise ValueError(f"metadata vector of shape {vector.shape}, needs ({self.num_columns},) or more")
        given = vector[self.columns]
        values = given.astype(np.int64)
        if not (values == given).all() or values.min() < 0 or values.max() >= MAX_GROUPS:
            raise ValueError(f"metadata {given.tolist()} are not all whole numbers in [0, {MAX_GROUPS})")
        return torch.from_numpy(values)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": {}}


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


def _scan(task: Task, shard: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and places (offset, size) of the known parts of each sample: of each run of members with one key."""
    key, parts = "", dict[str, tuple[int, int]]()
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
                match = _MEMBER.match(member.name)
                if not match or not member.isfile() or match[2].lower() not in _PARTS:
                    continue
                if match[1] != key and parts:
                    yield key, parts
                    parts = {}
                key = match[1]
                parts[match[2].lower()] = (member.offset_data, member.size)
            # tarfile stops without a word at a header that is cut or garbled. A whole tar ends with blocks of zeros.
            tar.fileobj.seek(tar.offset)  # type: ignore[union-attr]
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # type: ignore[union-attr]
                raise tarfile.ReadError(f"it ends in the middle, at offset {tar.offset}")
    except (tarfile.TarError, OSError) as error:
        raise ClipsiftError(f"{task.key}: {shard} is damaged ({_reason(error)}); fetch it again") from error
    if parts:
        yield key, parts


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
