"""A few real steps: do they fit, how fast are they, and can the data keep up?"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch

from clipsift_app.doctor.finding import Finding, Status, size
from clipsift_app.doctor.memory import Saved, StepMemory, available, fixed_bytes, num_blocks, saved_tensors
from clipsift_app.doctor.shared_memory import check_shared_memory
from clipsift_app.settings import RunSettings
from clipsift_common.distributed import alone, gather_objects, is_distributed, world_size
from clipsift_common.errors import ClipsiftError, is_out_of_memory
from clipsift_common.machine import LaunchedMachine, device_of
from clipsift_common.progress import format_duration
from selection.pool.index import PoolIndex
from selection.subset import Subset
from training.data import PoolDataModule
from training.fit import make_fit_trainer
from training.loading.encoded import EncodedDataset
from training.loading.gpu_decode import check_gpu_decoding
from training.loading.loader import StepDataset
from training.loading.resize import KERNEL
from training.model import CLIPModule

_READ = 64  # samples that are read and decoded
_PIECE = 8  # samples of the smaller trial step
_MARGIN = 1.25  # allocators keep more than they are asked for
_PATIENCE = 60.0  # seconds that a step of the whole batch may take; a longer one is worked out from smaller ones
_WAIT = 0.05  # share of the time that may go by waiting for data

Batch = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """Decoded samples of the pool; the seconds, and bytes, that one takes a worker and its way to the device."""

    batch: Batch
    seconds: float
    num_bytes: float


def read_samples(run: RunSettings, index: PoolIndex) -> tuple[Finding, Material | None]:
    """Read, decode and tokenize a few samples as training does; for a single process."""
    count = min(_READ, len(index))
    on_gpu = run.data["decode"] == "gpu"  # which is not asked here
    decode = "fast" if on_gpu else run.data["decode"]
    few = {"global_batch": count, "samples_seen": count, "workers": 0, "decode": decode}
    data = PoolDataModule(**run.data | few)
    data.use(index, Subset(np.sort(index.uids)))
    dataset = data.train_dataloader().dataset
    dataset.tokenizer(["the first call loads the vocabulary"])
    start = time.perf_counter()
    batch, lost = dataset[0]
    seconds = (time.perf_counter() - start) / count
    if "error" in batch:
        return Finding("reading", "fail", str(batch["error"]), "mend the shards"), None
    num_bytes = float(batch["image"][0].numel())
    if on_gpu:
        seconds, num_bytes = _as_encoded(dataset)
    made = f"decoded and resized by {'the compiled kernel' if KERNEL else 'torch'}" if not on_gpu else "left encoded"
    text = f"{count} samples read and {made} at {1 / seconds:,.0f} per second and worker"
    if remarks := batch.pop("remarks", None):
        _, shard, key, detail = remarks[0]
        text += f"; the decoder remarked on {len(remarks)} ({shard} {key}: {detail}), which are used"
    if not lost:
        return Finding("reading", "ok", text), Material(batch, seconds, num_bytes)
    share = len(lost) / (count + len(lost))
    status: Status = "fail" if share > run.max_loss and len(lost) > 1 else "warn"
    text += f"; {len(lost)} could not be decoded ({lost[0][0]}: {lost[0][1]} {lost[0][2]})"
    return Finding("reading", status, text, "mend them or raise max_loss"), Material(batch, seconds, num_bytes)


def _as_encoded(dataset: StepDataset) -> tuple[float, float]:
    """Seconds and bytes of a sample that the GPU decodes: what a worker does, and sends."""
    parts = dataset.index, dataset.order, dataset.transform, dataset.tokenizer
    start = time.perf_counter()
    batch, _ = EncodedDataset(*parts, 0, 1)[0]
    count, sent = len(batch["uid"]), batch["image"].jpegs.nbytes + batch["image"].pixels.nbytes
    return (time.perf_counter() - start) / count, sent / count


def check_step(run: RunSettings, machine: LaunchedMachine, material: Material) -> list[Finding]:
    """Train for a few steps on a copy of the model that is thrown away; all ranks call together."""
    try:
        return Trial(run, machine, material).findings()
    except ClipsiftError as error:
        return [Finding("step", "fail", str(error), "set what it names")]


class Trial:
    """The steps of one check, on a model that is thrown away."""

    def __init__(self, run: RunSettings, machine: LaunchedMachine, material: Material) -> None:
        self.run, self.machine, self.material = run, machine, material
        self.data = PoolDataModule(**run.data)
        self.num_drawn = run.online.num_drawn(self.data.global_batch) if run.online else self.data.global_batch
        self.share = self.data.global_batch // world_size()
        self.accumulate = int(run.model.get("accumulate", 1))
        self.device = device_of(machine)
        self.local_ranks = machine.place.per_node

    def findings(self) -> list[Finding]:
        decoding = [self._decoding()] if self.data.decode == "gpu" else []
        return [*decoding, *self._measured()]

    def _decoding(self) -> Finding:
        """Whether every rank's GPU decodes a JPEG."""
        error = None
        try:
            check_gpu_decoding(self.device)
        except ClipsiftError as refused:
            error = str(refused)
        if errors := [found for found in gather_objects(error) if found]:
            return Finding("decoding", "fail", errors[0], "--data.decode fast")
        return Finding("decoding", "ok", "JPEGs are decoded on every GPU (nvJPEG)")

    def _measured(self) -> list[Finding]:
        few = min(self.share, _PIECE)
        more = min(self.share, 4 * few)
        there = min(gather_objects(available(self.device, self.local_ranks)))
        if self._alone(more) is None:
            text = f"a step of {more} samples ran out of memory, there are {size(there)}"
            return [Finding("memory", "fail", text, "take a smaller model, or see what else is on the device")]
        first, second, memory = self.small_steps(few, more)
        need = _MARGIN * memory.bytes(self.share, world_size(), self.accumulate)
        if need > there:
            return [self._too_large(memory, f"a step needs about {size(need)}", there)]
        per_sample = max((second[0] - first[0]) / (more - few), 0.0) if more > few else 0.0
        seconds, how = second[0] + per_sample * (self.share - more), f"worked out from steps of {few} and {more}"
        seconds *= 4 / 3 if self.accumulate > 1 else 1  # every encoding is done twice
        if more == self.share and self.accumulate == 1:
            how = "measured"
        elif self.device.type == "cuda" or seconds <= _PATIENCE:
            if (alone_seconds := self._alone(self.share)) is None:
                return [self._too_large(memory, f"a step of {self.share:,} samples ran out of memory", there)]
            own_captions = self.run.model.get("trim_text", True)
            again = world_size() > 1 or own_captions
            seconds, how = self._steps(self.share, trims=own_captions)[0] if again else alone_seconds, "measured"
        used = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else need
        text = f"{size(used)} of {size(there)} for {self.share:,} samples on each device"
        drawn = math.ceil(self.num_drawn / world_size())
        pixels = self.material.batch["image"][0].numel()
        shared = check_shared_memory(self.run, self.machine, pixels, self.material.num_bytes, drawn)
        return [Finding("memory", "ok", text), *shared, *self._speed(seconds, how)]

    def small_steps(self, few: int, more: int) -> tuple[tuple[float, int], tuple[float, int], StepMemory]:
        """Seconds and kept bytes of steps of ``few`` and of ``more`` samples, and the memory that follows from them.

        In one piece: checkpointing hides what each of several keeps. In whole contexts: captions may be long.
        """
        first, second = self._steps(few, accumulate=1), self._steps(more, accumulate=1)
        return first, second, self._memory(few, first[1], more, second[1])

    def _memory(self, few: int, few_bytes: int, more: int, more_bytes: int) -> StepMemory:
        module = CLIPModule(**self.run.model)
        per_sample = (more_bytes - few_bytes) / (more - few) if more > few else more_bytes / more
        per_sample = max(per_sample, 0.0) + self.material.batch["image"][0].numel() * 5  # uint8 and float32
        if self.run.model.get("grad_checkpointing"):  # and what one block keeps while it is computed again
            whole = self._steps(few, accumulate=1, grad_checkpointing=False)[1]
            per_sample += whole / few / num_blocks(module)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        return StepMemory(fixed_bytes(parameters, bool(self.run.model.get("ema"))), per_sample)

    def _too_large(self, memory: StepMemory, text: str, there: float) -> Finding:
        pieces = memory.pieces_that_fit(self.share, world_size(), there / _MARGIN)
        remedy = f"--model.accumulate {pieces}" if pieces else "use more devices"
        if self.run.model.get("grad_checkpointing") is not True:
            remedy += ", or --model.grad_checkpointing true"
        found = f"{text} for {self.share:,} samples on each device, there are {size(there)}"
        return Finding("memory", "fail", found, remedy)

    def _alone(self, count: int) -> float | None:
        """Seconds of a step that each rank makes by itself, the slowest one's; None when one ran out of memory.

        Before any step together: a rank that runs out of memory there leaves the others waiting.
        """
        seconds: float | None = None
        try:
            with alone():
                seconds, _ = self._steps(count)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        everyone = gather_objects(seconds)
        return None if None in everyone else max(value for value in everyone if value is not None)

    def _steps(self, count: int, trims: bool = False, **changes: Any) -> tuple[float, int]:
        """Seconds of a step of ``count`` samples on each rank, the slowest one's, and bytes kept for backward.

        ``trims``: no whole contexts, but what the samples' captions need; ``changes``: of the model's settings.
        """
        loader = _Same(self.material.batch, count, trims)
        options = {"gradient_clip_val": self.run.trainer.get("gradient_clip_val"), "inference_mode": False}
        model = self.run.model | changes
        selective = model.get("grad_checkpointing") == "selective" and not model.get("compile")
        with saved_tensors(selective) as saved:
            clock = _Clock(self.device, saved)
            trainer = make_fit_trainer(self.machine, not is_distributed(), [clock], options)
            trainer.fit(CLIPModule(**model), train_dataloaders=loader)
        return max(gather_objects(clock.seconds)), saved.bytes

    def _speed(self, seconds: float, how: str) -> list[Finding]:
        rate, steps = self.data.global_batch / seconds, self.data.total_steps
        text = f"{rate:,.0f} samples per second, {steps:,} steps of {seconds:.3g} s ({how})"
        found = [Finding("speed", "ok", f"{text}: {format_duration(steps * seconds)} to train")]
        cores = max(1, len(os.sched_getaffinity(0)) // self.local_ranks)
        supply = world_size() * min(max(self.data.workers, 1), cores) / self.material.seconds
        need = self.num_drawn / seconds
        text = f"workers can read {supply:,.0f} samples per second, training takes {need:,.0f}"
        wait = max(0.0, 1 - supply / need)
        if wait <= _WAIT:
            return [*found, Finding("data", "ok", text)]
        workers = int(np.ceil(need * self.material.seconds / world_size()))
        remedy = (
            f"--data.workers {workers}" if workers <= cores else f"{workers} cores for each device, here are {cores}"
        )
        return [*found, Finding("data", "warn", f"{text}: devices would wait {wait:.0%} of the time", remedy)]


class _Same:
    """A loader of two equal batches, made of the same few samples again and again."""

    def __init__(self, batch: Batch, count: int, trims: bool) -> None:
        self.batch = batch if trims else {name: values for name, values in batch.items() if name != "text_lengths"}
        self.count = count

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Batch]:
        rows = np.arange(self.count) % len(self.batch["image"])
        for _ in range(len(self)):
            yield {name: values[rows] for name, values in self.batch.items()}


class _Clock(L.Callback):
    """``seconds`` of the last step, from the batch on the device to the new weights."""

    seconds = 0.0

    def __init__(self, device: torch.device, saved: Saved) -> None:
        self.device, self.saved = device, saved

    def on_train_batch_start(self, *_: Any) -> None:
        self.saved.restart()
        self._start = self._now()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds = self._now() - self._start

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
