"""The samples of a task's tars, as DataComp's download script leaves them, by position."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from clipsift_common.distributed import on_rank_zero, share_out
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.images import EVALUATION_IMAGE_EXTENSIONS, ImageError, decode_image
from clipsift_common.tar_samples import TarReader, TarSample
from evaluation.data.layout import find_shards
from evaluation.tasks import Task

MAX_GROUPS = 256  # values of one metadata column; the largest that is counted by (Camelyon17's slides) has 50

_PARTS = (*EVALUATION_IMAGE_EXTENSIONS, "cls", "npy")  # everything else in a tar is left unread


class TarImages:
    """The samples of a task's tars by position, in tar order.

    Opening, a collective call, reads the tars' headers only, each tar on one rank. Afterwards any process can read any
    sample: what is opened is found again after a fork or a pickle, and never moved by another process's reading.

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
        self.shards = on_rank_zero(lambda: find_shards(task, folder))
        self._handles: dict[int, IO[bytes]] = {}
        names, places = zip(*share_out(self.shards, self._look))
        self.names = np.concatenate(names)
        if not len(self.names):
            raise ClipsiftError(f"{task.key}: {folder} has no samples")
        self.shard_of = np.repeat(np.arange(len(self.shards)), [len(part) for part in names])
        self.places = np.concatenate(places)  # (n, 6) int64: offset and size of image, cls, npy (-1: not there)

    def _look(self, shard: Path) -> tuple[np.ndarray, np.ndarray]:
        """Names and places of a tar's samples."""
        samples = list(_scan(self.task, shard))
        places = [self._places(shard, sample) for sample in samples]
        return np.array([sample.key for sample in samples], str), np.array(places, np.int64).reshape(-1, 6)

    def _places(self, shard: Path, sample: TarSample) -> list[int]:
        """Offset and size of image, cls and npy; -1 for what is not asked for."""
        wanted = {"image": sample.first(EVALUATION_IMAGE_EXTENSIONS)}
        if self.num_classes is not None:
            wanted["cls"] = sample.parts.get("cls")
        if self.columns:
            wanted["npy"] = sample.parts.get("npy")
        places = []
        for name in ("image", "cls", "npy"):
            member = wanted.get(name)
            if name in wanted and member is None:
                raise ClipsiftError(
                    f"{self.task.key}: {shard} sample {sample.key} has no {name}; fetch the folder again"
                )
            places += [-1, -1] if member is None else [member.offset_data, member.size]
        return places

    def __len__(self) -> int:
        return len(self.names)

    def name(self, position: int) -> str:
        """Where a sample lies, for messages."""
        return f"{self.shards[self.shard_of[position]]} sample {self.names[position]}"

    def read(self, position: int) -> tuple[Image.Image, dict[str, Any]]:
        """The RGB image, with ``label`` (int) and ``metadata`` ((columns,) int64) if they are asked for.

        Raises :class:`ClipsiftError` for a broken image, a label that no class has, a bad metadata vector.
        """
        shard = int(self.shard_of[position])
        image, image_size, cls, cls_size, npy, npy_size = self.places[position].tolist()
        values: dict[str, Any] = {}
        try:
            if self.num_classes is not None:
                values["label"] = self._label(self._bytes(shard, cls, cls_size))
            if self.columns:
                values["metadata"] = self._metadata(self._bytes(shard, npy, npy_size))
            return decode_image(self._bytes(shard, image, image_size)), values
        except (ImageError, ValueError, OSError) as error:
            raise ClipsiftError(f"{self.task.key}: {self.name(position)}: {first_line(error)}") from error

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


def _scan(task: Task, shard: Path) -> Iterator[TarSample]:
    """The samples of a tar that have any of the known parts."""
    try:
        with open(shard, "rb") as handle:
            reader = TarReader(handle, _PARTS)
            yield from (sample for sample in reader if sample.parts)
    except OSError as error:
        raise ClipsiftError(f"{task.key}: {shard} cannot be read ({first_line(error)}); fetch it again") from error
    if problem := reader.truncated or ("" if reader.size else "it is empty"):
        raise ClipsiftError(f"{task.key}: {shard} is damaged ({problem}); fetch it again")
