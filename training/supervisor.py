"""What watches over a run: checkpoints, signals and lost samples, agreed on by all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from clipsift_common.data_report import DataReport
from clipsift_common.distributed import waiting_group
from clipsift_common.ends import stop
from clipsift_common.ends.watch import end_soon
from clipsift_common.errors import ClipsiftError, expected, first_line
from clipsift_common.files import write_json
from training.checkpoints import CHECKPOINT_NAME, AtomicCheckpointIO, stamp_settings
from training.guard import Guard
from training.loading.loader import GlobalBatchLoader
from training.ranks import gather

logger = logging.getLogger("clipsift")

MIN_SAMPLES_TO_JUDGE = 100  # before that, one broken image may look like a broken pool


class Interrupted(stop.Stopped):
    """Training was told to stop, has saved, and the same command resumes."""

    def __init__(self, status: int, step: int, total_steps: int) -> None:
        super().__init__(status)
        self.step, self.total_steps = step, total_steps

    def __str__(self) -> str:
        return f"stopped by a signal after step {self.step} of {self.total_steps}; the same command resumes there"


class Supervisor(L.Callback):
    """Keeps the ranks together: they save, stop and fail at the same step, or not at all.

    Once per step, when every rank has its batch, the ranks add up a few numbers (on the CPU, so a GPU is not waited
    for): was one told to stop, is it time to save, could a shard not be read, how many samples were lost. Whatever
    follows is then decided by the same numbers everywhere.

    Args:
        folder: ``<out>/training``; gets ``last.ckpt`` and ``data_report.json``.
        settings: plain values that make up the experiment; a checkpoint remembers them.
        max_loss: share of lost samples above which the run stops, in [0, 1].
        every_steps: save after each multiple of one of these steps.
        every_minutes: and after so many minutes since the last time.
        guard: of the same run, before this in the list of callbacks. A save waits for a step whose update is made:
            the weights before a skipped one may be what it was skipped for.
        alone: no other rank takes part, although there may be some.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        max_loss: float,
        every_steps: Collection[int],
        every_minutes: float,
        guard: Guard,
        alone: bool = False,
    ) -> None:
        self.folder, self.settings, self.max_loss, self.guard = folder, settings, max_loss, guard
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.alone = alone
        self.interrupted = 0  # the status to end with; 0: not told to stop
        self.report = DataReport()  # of all ranks, as of the last checkpoint
        self.seconds = 0.0  # of training, over all starts, as of the last checkpoint
        self._earlier: tuple[DataReport, float] = (DataReport(), 0.0)  # from before this start
        self._save_due, self._stop_asked = False, 0

    # What a checkpoint holds of this callback.

    def state_dict(self) -> dict[str, Any]:
        return {"report": self.report.as_dict(), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._earlier = DataReport.from_dict(state["report"]), state["seconds"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        stamp_settings(checkpoint, self.settings)

    @property
    def lost_earlier(self) -> int:
        """Samples lost before this start."""
        return self._earlier[0].num_lost

    # The run.

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._compare_loaders(trainer)
        self._start = self._saved = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        stop.defer(others_wait=not self.alone)
        report = _loader(trainer).report
        told = stop.status()
        is_time = trainer.is_global_zero and time.monotonic() - self._saved >= 60 * self.every_minutes
        failed, requeue, interrupted, save, lost, samples = self.sum_over_ranks(
            trainer,
            [
                "error" in batch,
                told == stop.REQUEUE,
                told == stop.INTERRUPTED,
                is_time,
                report.num_lost,
                report.samples,
            ],
        )
        self._stop_asked = stop.REQUEUE if requeue else stop.INTERRUPTED if interrupted else 0
        self._save_due |= requeue + interrupted + save > 0
        if failed:
            errors = gather(trainer, batch.get("error"))
            raise ClipsiftError(next(error for error in errors if error))
        lost, samples = lost + self._earlier[0].num_lost, samples + self._earlier[0].samples
        is_last = batch_idx + 1 == trainer.num_training_batches
        if lost > self.max_loss * samples and (is_last or samples >= MIN_SAMPLES_TO_JUDGE):
            self._update_report(trainer)
            self.report.check(self.max_loss)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = batch_idx + 1
        is_last = step == trainer.num_training_batches
        self._save_due |= is_last or any(step % every == 0 for every in self.every_steps)
        if self._save_due and (self.guard.settle(trainer, pl_module, is_last) or is_last):
            self._save(trainer)
            self._save_due = False
            if self._stop_asked:
                stop.agree(self._stop_asked)
                self.interrupted, trainer.should_stop = self._stop_asked, True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop.heed()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        stop.heed()
        if trainer.world_size > 1 and not isinstance(
            exception, stop.Stopped
        ):  # the Trainer puts the model away first, which waits for what the GPU still does
            end_soon(expected(exception) or first_line(exception))

    def sum_over_ranks(self, trainer: L.Trainer, values: list[Any]) -> list[float]:
        """Sums of numbers (counts and flags; exact up to 2^53), on every rank."""
        totals = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if trainer.world_size > 1:
            dist.all_reduce(totals, group=waiting_group())
        return totals.tolist()

    def _compare_loaders(self, trainer: L.Trainer) -> None:
        loader = _loader(trainer)
        seen = gather(trainer, [loader.total_steps, loader.step, loader.order])
        if any(other != seen[0] for other in seen):
            raise ClipsiftError(
                "the ranks see different data (samples, number of steps or place in the run): "
                "is the pool, the subset or the run directory another one on some node?"
            )

    def _save(self, trainer: L.Trainer) -> None:
        self._update_report(trainer)
        self.seconds = self._earlier[1] + time.monotonic() - self._start
        trainer.save_checkpoint(self.folder / CHECKPOINT_NAME)
        self._saved = time.monotonic()
        writer = trainer.strategy.checkpoint_io
        if error := gather(trainer, writer.error if isinstance(writer, AtomicCheckpointIO) else None)[0]:
            raise ClipsiftError(error)

    def _update_report(self, trainer: L.Trainer) -> None:
        self.report = DataReport().merge(self._earlier[0])
        for part in gather(trainer, _loader(trainer).report.as_dict()):
            self.report.merge(part)
        if trainer.is_global_zero:
            datamodule: Any = getattr(trainer, "datamodule")  # noqa: B009 - Lightning does not declare it
            everything = datamodule.earlier_losses().merge(self.report).as_dict()
            write_json(self.folder / "data_report.json", everything | {"training": self.report.as_dict()})


def _loader(trainer: L.Trainer) -> GlobalBatchLoader:
    loader = trainer.train_dataloader
    assert isinstance(loader, GlobalBatchLoader)
    return loader
