"""Batches of the kept samples, read from the original shards: the same on any number of ranks and workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.data_report import DataReport
from common.errors import ClipsiftError
from common.files import array_fingerprint, fingerprint
from common.images import ImageError
from selection.index import PoolIndex, Sample
from training.order import Sampling, draw, places_at, replacement
from training.transform import TrainTransform

_MAX_REPLACEMENTS = 100  # tries for one place before the pool counts as broken
_CHUNK = 1 << 20  # rows fingerprinted at a time

Batch = dict[str, Any]
Lost = tuple[str, str, str, str]  # cause, shard, key, detail: what DataReport.lose takes


@dataclass(frozen=True)
class SampleOrder:
    """What fixes the sequence of samples: the kept rows of the pool's index, seed, global batch, sampling."""

    rows: np.ndarray
    global_batch: int
    seed: int
    sampling: Sampling

    def fingerprint(self, index: PoolIndex) -> str:
        """Hash that is equal only for the same samples in the same order; it names uids, not places in files."""
        starts = range(0, len(self.rows), _CHUNK)
        uids = [array_fingerprint(index.uids[self.rows[start : start + _CHUNK]]) for start in starts]
        return fingerprint([uids, self.global_batch, self.seed, self.sampling])


class StepDataset(Dataset):
    """``dataset[step]`` is one rank's share of a global batch, decoded, and a list of what was lost on the way.

    A sample whose image cannot be decoded is replaced by another kept one, drawn by its place in the sequence, so the
    batch keeps its size and stays the same on every machine. A shard that cannot be read is no lost sample but the end
    of the run: the batch is then ``{"error": message}``, which travels to where all ranks can stop together.
    """

    def __init__(
        self,
        index: PoolIndex,
        order: SampleOrder,
        transform: TrainTransform,
        tokenizer: Callable[[list[str]], torch.Tensor],
        rank: int,
        world_size: int,
    ) -> None:
        self.index, self.order, self.transform, self.tokenizer = index, order, transform, tokenizer
        share = order.global_batch // world_size
        self.share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, step: int) -> tuple[Batch, list[Lost]]:
        order, lost = self.order, list[Lost]()
        places = places_at(step, order.global_batch)[self.share]
        rows = order.rows[draw(places, len(order.rows), order.seed, order.sampling)]
        images = torch.empty((len(places), 3, *self.transform.size), dtype=torch.uint8)
        captions = []
        try:
            for number, place in enumerate(places.tolist()):
                rows[number], caption = self._decode(place, int(rows[number]), images[number], lost)
                captions.append(caption)
        except ClipsiftError as error:
            return {"error": str(error)}, lost
        uids = torch.from_numpy(self.index.uids[rows].view(np.int64).reshape(-1, 2))
        return {"image": images, "text": self.tokenizer(captions), "uid": uids}, lost

    def _decode(self, place: int, row: int, out: torch.Tensor, lost: list[Lost]) -> tuple[int, str]:
        """Fill ``out`` with the pixels of ``row`` or of its replacement; returns the row used and its caption."""
        for attempt in range(1, _MAX_REPLACEMENTS + 1):
            sample: Sample = self.index.read(row)
            try:
                out.copy_(self.transform(sample.image, place))
                return row, sample.caption
            except ImageError as error:
                lost.append((error.cause, sample.shard, sample.key, error.detail))
                row = int(self.order.rows[replacement(place, attempt, len(self.order.rows), self.order.seed)])
        raise ClipsiftError(
            f"no usable image among {_MAX_REPLACEMENTS} samples of the subset; last: {sample.shard} {sample.key}. "
            "Mend the shards"
        )


class GlobalBatchLoader:
    """The batches of a whole run for one rank, resumable at any step.

    An iterable of ``len(self)`` batches ``{"image": (b, 3, h, w) uint8, "text": (b, context) int64, "uid": (b, 2)
    int64}`` (uid: the bits of the (high, low) pair), b = global batch / world size. The state is the number of batches
    given out, equal on all ranks, and the fingerprint of the order, so rank 0's state serves every rank of any world
    size. Lightning finds ``state_dict`` and saves it with the model; because of ``__len__`` it fetches nothing ahead,
    so the state is exact.

    Attributes:
        report: what was lost so far in this process.
        wait_seconds: how long the consumer has waited for data.
    """

    def __init__(self, dataset: StepDataset, total_steps: int, workers: int, pin_memory: bool = False) -> None:
        self.dataset, self.total_steps = dataset, total_steps
        self.workers, self.pin_memory = workers, pin_memory
        self.order = dataset.order.fingerprint(dataset.index)
        self.step = 0
        self.report = DataReport()
        self.wait_seconds = 0.0

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(
            DataLoader(
                self.dataset,
                batch_size=None,
                sampler=range(self.step, self.total_steps),
                num_workers=self.workers,
                pin_memory=self.pin_memory,
                worker_init_fn=_leave_process_group,
                generator=torch.Generator(),  # its own: drawing the workers' seeds must not move the global one
            )
        )
        while self.step < self.total_steps:
            start = time.perf_counter()
            batch, lost = next(batches)
            self.wait_seconds += time.perf_counter() - start
            self._count(batch, lost)
            self.step += 1  # before the yield: a checkpoint made while this batch is trained on starts after it
            yield batch

    def _count(self, batch: Batch, lost: list[Lost]) -> None:
        self.report.samples += len(batch.get("uid", ())) + len(lost)
        for cause, shard, key, detail in lost:
            self.report.lose(cause, shard, key, detail)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that a checkpoint has seen.

        Raises:
            ClipsiftError: when the checkpoint saw another order of samples.
        """
        if state["order"] != self.order:
            raise ClipsiftError(
                "the checkpoint was trained on other data: the subset, the pool's samples, seed, global_batch or "
                "sampling has changed since; restore it, or start anew with another out"
            )
        self.step = state["step"]


def _leave_process_group(worker: int) -> None:
    """Keep workers alive when a launcher signals the whole group: the step that saves still needs its batch."""
    os.setpgid(0, 0)
