"""A pool of real shards and a CLIP small enough to train in a test."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from clipsift_common.clip import load_clip
from clipsift_common.machine import Machine, make_trainer
from clipsift_common.towers.text import TextLengths
from helpers.pictures import picture
from helpers.pools import sample
from helpers.tars import Members, write_tar
from helpers.tiny_clip import write_architecture
from selection.settings import Teacher
from selection.subset import Subset
from selection.uids import parse_uids
from training import CLIPModule
from training.online import Online, OnlineSelection

NUM_SHARDS, PER_SHARD = 3, 14
NUM_KEPT = 29  # prime: no batch size divides a pass


def uid_of(number: int) -> str:
    return f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}"


def training_sample(number: int, broken: bool = False, junk: bytes = b"") -> Members:
    """A sample whose uid is :func:`uid_of`; a ``broken`` one has a JPEG that ends in the middle.

    ``junk`` stands before the JPEG's end mark.
    """
    image = picture(number, (44 + number % 5, 40))
    image = image[:-2] + junk + image[-2:]
    uid = json.dumps({"uid": uid_of(number)}).encode()
    return sample(f"{number:06d}", number, jpg=image[: len(image) // 2] if broken else image, json=uid)


def write_shards(folder: Path, counts: Sequence[int], broken: Collection[int] = ()) -> Path:
    """A shard of so many samples each, numbered through from 0."""
    number = 0
    for shard, count in enumerate(counts):
        numbers = range(number, number + count)
        members = [member for each in numbers for member in training_sample(each, each in broken)]
        write_tar(folder / f"{shard:08d}.tar", members)
        number += count
    return folder


def write_pool(folder: Path, broken: Collection[int] = ()) -> Path:
    """Shards of samples 0 ... NUM_SHARDS * PER_SHARD - 1."""
    return write_shards(folder, [PER_SHARD] * NUM_SHARDS, broken)


def write_workspace(folder: Path) -> Path:
    """``pool/``, ``tiny.json`` (architecture) and ``subset.npy`` (the last NUM_KEPT samples) in ``folder``."""
    write_pool(folder / "pool")
    write_architecture(folder)
    total = NUM_SHARDS * PER_SHARD
    Subset(parse_uids([uid_of(number) for number in range(total - NUM_KEPT, total)])).save(folder / "subset.npy")
    return folder


def data_options(workspace: Path, out: Path) -> dict[str, Any]:
    """8 samples per batch over 9 steps: 2 passes and 14 samples."""
    return {
        "pool": str(workspace / "pool"),
        "out": str(out),
        "model": str(workspace / "tiny.json"),
        "samples_seen": 72,
        "global_batch": 8,
        "workers": 0,
        "seed": 3,
        "cache": str(workspace / "cache"),
        "subset": str(workspace / "subset.npy"),
    }


class RecordingCLIP(CLIPModule):
    """Remembers the uids, the loss and the learning rate of every training step of this rank."""

    def __init__(self, model: str, **hyper: Any) -> None:
        super().__init__(model, **{"lr": 1e-3, "warmup": 3} | hyper)
        self.record: dict[str, list[Any]] = {"uids": [], "loss": [], "lr": []}

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.record["uids"].append(batch["uid"].tolist())
        self.record["loss"].append(loss.item())
        self.record["lr"].append(self.optimizers().param_groups[0]["lr"])
        return loss


class Faulty(RecordingCLIP):
    """Steps ``faults`` (from 1) go wrong: ``added`` is added to the loss, whose gradients stay as they are, or a value
    of one weight's gradient becomes ``spoilt``, before the ranks' gradients meet."""

    faults: Collection[int] = ()
    added: float | None = None
    spoilt: float | None = None
    is_at_fault = False

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.clip.visual.proj.register_hook(self._spoil)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.is_at_fault = batch_idx + 1 in self.faults
        return loss + self.added if self.is_at_fault and self.added is not None else loss

    def _spoil(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.is_at_fault and self.spoilt is not None:
            gradient = gradient.clone()
            gradient.view(-1)[-1] = self.spoilt
        return gradient


def save_teacher(workspace: Path, path: Path) -> Path:
    """Weights of a tiny CLIP that is not the one which is trained."""
    torch.save(CLIPModule(str(workspace / "tiny.json"), lr=1.0, warmup=0, seed=7).clip.state_dict(), path)
    return path


def make_online(workspace: Path, teacher: Path, steps: list[dict[str, Any]]) -> OnlineSelection:
    """The selection of 8 samples per step; every target is the same five features."""
    online = Online(Teacher(str(workspace / "tiny.json"), str(teacher)), steps, batch_size=16)
    target = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    clip = load_clip(str(workspace / "tiny.json"), str(teacher))
    return OnlineSelection(online, online.check(None), clip, lambda name: target, str(workspace / "tiny.json"), 8, 3)


class FailAt(L.Callback):
    """Ends the run with an exception before step ``step`` (0-based) is trained."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.step:
            raise ZeroDivisionError("on purpose")


def train_golden(
    golden: Path, machine: Machine, accumulate: int, trims: bool = False
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Train on the reference's batches; this rank's record and the final weights. ``trims``: in no whole contexts."""
    recipe = json.loads((golden / "expected.json").read_text())["recipe"]
    module = RecordingCLIP(str(golden / "model.json"), lr=recipe["lr"], warmup=recipe["warmup"], accumulate=accumulate)
    module.clip.load_state_dict(torch.load(golden / "init.pt", weights_only=True))
    trainer = make_trainer(machine, max_epochs=1)
    with np.load(golden / "batches.npz", allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 1, 4, 2, 3)
        tokens = torch.from_numpy(arrays["tokens"])
    share = images.shape[1] // trainer.world_size
    mine = slice(trainer.global_rank * share, (trainer.global_rank + 1) * share)
    uid = torch.zeros(share, 2, dtype=torch.int64)
    batches: list[dict[str, Any]] = [
        {"image": image[mine], "text": text[mine], "uid": uid} for image, text in zip(images, tokens)
    ]
    if trims:
        batches = [batch | {"text_lengths": TextLengths.of(batch["text"])} for batch in batches]
    trainer.fit(module, train_dataloaders=torch.utils.data.DataLoader(batches, batch_size=None))
    return module.record, module.clip.state_dict()
