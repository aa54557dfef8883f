"""One task's samples as batches: each sample on exactly one rank, nothing padded, nothing repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from clipsift_common.batches.pixels import Preprocess
from clipsift_common.batches.prefetch import sent_ahead
from clipsift_common.distributed import rank, world_size
from clipsift_common.errors import ClipsiftError

Batch = dict[str, Any]


class Samples(Protocol):
    """Images by position, each with whatever else belongs to it."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> tuple[Image.Image, dict[str, Any]]:
        """The image and named values; raises :class:`ClipsiftError` naming the sample."""
        ...

    def name(self, position: int) -> str:
        """Where the sample lies, for messages."""
        ...


class _Decoded(Dataset):
    """Samples with their images preprocessed. A problem is returned, not raised: an exception would lose its words
    on the way out of a worker, and leave the other ranks waiting."""

    def __init__(self, samples: Samples, preprocess: Callable[[Image.Image], torch.Tensor]) -> None:
        self.samples, self.preprocess = samples, Preprocess(preprocess)

    def __getitem__(self, position: int) -> Batch | ClipsiftError:
        try:
            image, values = self.samples.read(position)
        except ClipsiftError as error:
            return error
        return {"position": position, "image": self.preprocess.worker(image), **values}


def _collate(items: list[Batch | ClipsiftError]) -> Batch:
    for item in items:
        if isinstance(item, ClipsiftError):
            return {"failure": str(item)}
    return default_collate(items)


class TaskLoader:
    """Iterates over this rank's batches of a task: of samples in a row, so that a rank opens few of the task's files.

    Args:
        opened: gives the samples when the task's turn has come. Raises :class:`ClipsiftError` for a task that cannot be
            read.
        preprocess: PIL image -> (3, h, w).
        batch_size: samples of a batch, except the last.
        workers: processes that read.
        device: where the batches are to go.

    A batch is a dict: ``position`` (b,), ``image`` (b, 3, h, w) as
    :class:`~clipsift_common.batches.pixels.Preprocess` leaves it to the device, and what the task's samples have
    beside. There is always at least one batch, an empty dict where the rank has no sample, so that every rank takes
    part in every task. A task that cannot be read yields ``{"failure": message}``. On a GPU batches lie there when they
    are given out.
    """

    def __init__(
        self,
        opened: Callable[[], Samples],
        preprocess: Callable[[Image.Image], torch.Tensor],
        batch_size: int,
        workers: int,
        device: torch.device,
    ) -> None:
        self.opened, self.preprocess = opened, preprocess
        self.batch_size, self.workers, self.device = batch_size, workers, device

    def __iter__(self) -> Iterator[Batch]:
        try:
            samples = self.opened()
        except ClipsiftError as error:
            yield {"failure": str(error)}
            return
        positions = range(len(samples) * rank() // world_size(), len(samples) * (rank() + 1) // world_size())
        starts = range(0, len(positions), self.batch_size)
        batches = [list(positions[start : start + self.batch_size]) for start in starts]
        if not batches:
            yield {}
            return
        loader = DataLoader(
            _Decoded(samples, self.preprocess),
            batch_sampler=batches,
            collate_fn=_collate,
            num_workers=min(self.workers, len(batches)) if len(batches) > 1 else 0,
            pin_memory=self.device.type == "cuda",
        )
        yield from sent_ahead(loader, self.device)
