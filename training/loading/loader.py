"""Batches of the kept samples, read from the original shards: the same on any number of ranks and workers."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader, Dataset, get_worker_info

from clipsift_common.batches.prefetch import Send, sent_ahead
from clipsift_common.data_report import DataReport
from clipsift_common.errors import ClipsiftError
from clipsift_common.images import DECODER_REMARK, ImageError
from clipsift_common.towers.text import TextLengths
from selection.pool.claimed.learning import Absent
from selection.pool.index import PoolIndex, Sample
from training.loading.order import SampleOrder
from training.loading.permutation import places_at
from training.loading.slots import PREFETCH, Slot, Slots
from training.loading.stall import Reading, StallTimer
from training.loading.transform import TrainTransform

CPU = torch.device("cpu")
_OUTLIVE = 30  # seconds
_MAX_REPLACEMENTS = 100  # tries for one place before the pool counts as broken

Batch = dict[str, Any]
Lost = tuple[str, str, str, str]  # cause, shard, key, detail: what DataReport.lose and note take


class StepDataset(Dataset):
    """``dataset[step]`` is one rank's share of a global batch, decoded, and a list of what was lost on the way.

    A batch with pictures that the decoder remarked on has a list of these, ``remarks``, too.

    In a worker with ``slots``, ``image`` is the :class:`Slot` where it lies.

    A sample whose image cannot be decoded is replaced by another kept one, drawn by its place in the sequence, so the
    batch keeps its size and stays the same on every machine. A shard that cannot be read is no lost sample but the end
    of the run: the batch is then ``{"error": message}``, which travels to where all ranks can stop together.
    """

    uses_slots = True

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
        first, last = (order.global_batch * number // world_size for number in (rank, rank + 1))
        self.rank = rank
        self.reading: Reading | None = None
        self.slots: Slots | None = None
        self._window = -1  # whose shards were asked for last
        self.share = slice(first, last)  # of one size, but where a super-batch (training.online) does not divide

    def __getitem__(self, step: int) -> tuple[Batch, list[Lost]]:
        order, lost = self.order, list[Lost]()
        places = places_at(step, order.global_batch)[self.share]
        rows = order.at(places)
        self._fetch_ahead(int(places[-1]))
        captions, image, pixels = [], *self._room()
        remarks: list[Lost] = []
        try:
            for number, place in enumerate(places.tolist()):
                rows[number], caption = self._decode(place, int(rows[number]), pixels[number], lost, remarks)
                captions.append(caption)
        except ClipsiftError as error:
            return {"error": str(error)}, lost
        text = self.tokenizer(captions)
        batch = {"image": image, "text": text, "text_lengths": TextLengths.of(text)}
        batch["uid"] = self._uids(rows.tolist())
        return batch | {"remarks": remarks} if remarks else batch, lost

    def _uids(self, rows: list[int]) -> torch.Tensor:
        """(b, 2) int64: the bits of (high, low)."""
        return torch.from_numpy(self.index.entries(rows)["uid"].copy().view(np.int64).reshape(-1, 2))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(b, h, w, 3): how a batch's pixels lie in memory."""
        return (self.share.stop - self.share.start, *self.transform.size, 3)

    def _room(self) -> tuple[torch.Tensor | Slot, np.ndarray]:
        """Memory for a batch's pixels: what to hand out, and what to write to."""
        if self.slots and get_worker_info() and (slot := self.slots.take()):
            return slot, self.slots.array(slot)
        pixels = np.empty(self.shape, np.uint8)
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), pixels

    def _fetch_ahead(self, place: int) -> None:
        """Have the window's and the next one's shards got in the background, shared out over the workers."""
        if not self.order.window or not self.index.is_cached:
            return
        window, rows = self.order.ahead_of(place)
        if window != self._window:
            self._window = window
            worker = get_worker_info()
            self.index.fetch_ahead(rows[worker.id :: worker.num_workers] if worker else rows)

    def _decode(
        self, place: int, row: int, pixels: np.ndarray, lost: list[Lost], remarks: list[Lost]
    ) -> tuple[int, str]:
        """The row used, which is ``row`` or its replacement, and its caption; its pixels into ``pixels``."""
        for attempt in range(1, _MAX_REPLACEMENTS + 1):
            if self.reading:
                self.reading.note(row)
            try:
                sample: Sample = self.index.read(row)
            except Absent as error:
                lost.append((error.cause, error.shard, error.key, error.detail))
                row = self.order.instead(place, attempt)
                continue
            said: list[str] = []
            try:
                self._write(sample.image, place, pixels, said)
                remarks += [(DECODER_REMARK, sample.shard, sample.key, detail) for detail in said]
                return row, sample.caption
            except ImageError as error:
                lost.append((error.cause, sample.shard, sample.key, error.detail))
                row = self.order.instead(place, attempt)
        shard, key = lost[-1][1:3]
        raise ClipsiftError(
            f"no usable image among {_MAX_REPLACEMENTS} samples of the subset; last: {shard} {key}. Mend the shards"
        )

    def _write(self, data: bytes, place: int, out: np.ndarray, said: list[str]) -> None:
        """One picture into ``out``; what the decoder remarks into ``said``."""
        self.transform(data, place, out, said)


class GlobalBatchLoader:
    """The batches of a whole run for one rank, resumable at any step.

    An iterable of ``len(self)`` batches ``{"image": (b, 3, h, w) uint8, "text": (b, context) int64, "uid": (b, 2)
    int64}`` (uid: the bits of the (high, low) pair), b = global batch / world size, and ``text_lengths``,
    :class:`clipsift_common.towers.text.TextLengths`. The state is the number of batches given out, equal on all ranks,
    and the fingerprint of the order, so rank 0's state serves every rank of any world size. Lightning finds
    ``state_dict`` and saves it with the model; because of ``__len__`` it fetches nothing ahead, so the state is exact.

    Args:
        device: where the batches are needed. A GPU has them one ahead (:mod:`clipsift_common.batches.prefetch`);
            the batch that lies ready there is in no count and no state yet.
        send: for a GPU: makes of a batch from a worker, and the list of what was lost, those on the device.

    Attributes:
        report: what was lost so far in this process.
        wait_seconds: how long the consumer has waited for data.
    """

    def __init__(
        self,
        dataset: StepDataset,
        total_steps: int,
        workers: int,
        device: torch.device = CPU,
        stall_seconds: float = 0.0,
        send: Send = move_data_to_device,
    ) -> None:
        self.dataset, self.total_steps = dataset, total_steps
        self.workers, self.device, self.send = workers, device, send
        self.order = dataset.order.fingerprint(dataset.index)
        self.step = 0
        self.report = DataReport()
        self.wait_seconds = 0.0
        self.stall = StallTimer(stall_seconds, self._awaited)

    def __len__(self) -> int:
        return self.total_steps

    def __iter__(self) -> Iterator[Batch]:
        self.dataset.reading, self._first = Reading(self.workers), self.step
        try:
            self.dataset.slots = (
                Slots(self.workers, self.dataset.shape) if self.workers and self.dataset.uses_slots else None
            )
        except ClipsiftError as error:
            yield {"error": str(error)}  # all ranks stop together
            return
        try:
            with self.stall.running():
                yield from self._batches()
        finally:
            self.dataset.slots = None  # their memory is free when the last batch is gone

    def _batches(self) -> Iterator[Batch]:
        for batch, lost in sent_ahead(self._fetched(), self.device, self.send):
            self._count(batch, lost)
            self.step += 1  # before the yield: a checkpoint made while this batch is trained on starts after it
            yield batch

    def _fetched(self) -> Iterator[tuple[Batch, list[Lost]]]:
        """Batches as they come from the workers, on a GPU one more than are given out; what was lost with each."""
        batches = iter(
            DataLoader(
                self.dataset,
                batch_size=None,
                sampler=range(self.step, self.total_steps),
                num_workers=self.workers,
                prefetch_factor=PREFETCH if self.workers else None,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_outlive_signals,
                generator=torch.Generator(),  # its own: drawing the workers' seeds must not move the global one
            )
        )
        for step in range(self.step, self.total_steps):
            self._wanted, start = step, time.perf_counter()
            self.stall.start()
            batch, lost = next(batches)
            self.stall.stop()
            self.wait_seconds += time.perf_counter() - start
            if isinstance(batch.get("image"), Slot):
                batch["image"] = batch["image"].tensor()
            yield batch, lost

    def _awaited(self) -> str:
        """Rank, worker and shard that the next batch waits for."""
        worker = (self._wanted - self._first) % max(1, self.workers)  # in this order DataLoader asks them
        assert self.dataset.reading
        row, index = self.dataset.reading.row(worker), self.dataset.index
        shard = "nothing yet" if row < 0 else index.shards[int(index.entries([row])["shard"][0])].url
        who = f"worker {worker}, which reads" if self.workers else "itself, reading"
        return f"step {self._wanted + 1} of rank {self.dataset.rank} waits for {who} {shard}"

    def _count(self, batch: Batch, lost: list[Lost]) -> None:
        self.report.samples += len(batch.get("uid", ())) + len(lost)
        for event in lost:
            self.report.lose(*event)
        for event in batch.pop("remarks", ()):
            self.report.note(*event)

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


def _outlive_signals(worker: int) -> None:
    """Keep workers alive when a launcher or a scheduler signals all processes: the step that saves needs its batch.

    SIGTERM takes effect some time later, for it is also how DataLoader ends a worker that hangs.
    """
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_OUTLIVE))
