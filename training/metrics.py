"""How a run goes: ``metrics.csv``, one progress line, and a warning when nothing is learned."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from clipsift_common.files import atomic_path, writing
from clipsift_common.progress import Progress
from training.supervisor import Supervisor

logger = logging.getLogger("clipsift")

COLUMNS = (
    "step", "samples_seen", "loss", "learning_rate", "logit_scale",
    "samples_per_second", "samples_per_second_per_device", "data_wait", "lost",
)  # fmt: skip
_STUCK_WITHIN = 0.01  # relative distance to ln(global batch), the loss of a model that tells nothing apart


class Metrics(L.Callback):
    """Writes a row every ``log_every_n_steps`` steps of the Trainer, and for the last one.

    ``loss`` is the global batch's (``nan`` or ``inf`` where :mod:`training.guard` skips the update), ``learning_rate``
    the one the step was made with, ``logit_scale`` exp'd, after the step; ``samples_per_second`` and ``data_wait``
    (share of the time in which the ranks waited for data, 0-1) are means since the row before, ``lost`` the samples
    lost since the start. A resumed run continues after the row of its checkpoint. The rows also go to the Trainer's
    loggers, if it has any.

    Args:
        path: the CSV file.
        global_batch: samples per step over all ranks.
        supervisor: adds up over the ranks.
    """

    def __init__(self, path: Path, global_batch: int, supervisor: Supervisor) -> None:
        self.path, self.global_batch, self.supervisor = path, global_batch, supervisor
        self._stuck_since: int | None = None
        self._warned = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step, total = trainer.train_dataloader.step, int(trainer.num_training_batches)  # type: ignore[union-attr]
        if trainer.is_global_zero:
            last = begin_table(self.path, COLUMNS, step)
            if step - last >= trainer.log_every_n_steps:  # type: ignore[attr-defined]
                logger.warning("%s: the rows from step %d to %d are gone; training goes on", self.path, last + 1, step)
        self._progress = Progress("train", total * self.global_batch)
        self._progress.resume(step * self.global_batch)
        self._logged_at = (step, time.monotonic(), 0.0)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, notes = batch_idx + 1, {}
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every == 0 or step == trainer.num_training_batches:
            row = self._row(trainer, pl_module, outputs["loss"].item(), step)
            notes = {"loss": f"{row['loss']:.4f}", "wait": f"{row['data_wait']:.0%}"}
            if row["lost"]:
                notes["lost"] = f"{row['lost']:,}"
            if trainer.is_global_zero:
                self._write(trainer, row)
                if pl_module.hparams["loss"] == "clip":
                    self._warn_if_stuck(trainer, row["loss"], step)
        self._progress.advance(self.global_batch, **notes)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._progress.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_progress"):
            self._progress.close()

    def _row(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: float, step: int) -> dict[str, Any]:
        loader: Any = trainer.train_dataloader
        past_step, past_time, past_wait = self._logged_at
        now = time.monotonic()
        wait = (loader.wait_seconds - past_wait) / max(now - past_time, 1e-9)
        self._logged_at = (step, now, loader.wait_seconds)
        loss, wait, lost = self.supervisor.sum_over_ranks(trainer, [loss, wait, loader.report.num_lost])
        scale: Any = pl_module.clip.logit_scale  # type: ignore[union-attr]
        rate = (step - past_step) * self.global_batch / max(now - past_time, 1e-9)
        return {
            "step": step,
            "samples_seen": step * self.global_batch,
            "loss": loss / trainer.world_size,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "logit_scale": scale.detach().exp().item(),
            "samples_per_second": round(rate, 2),
            "samples_per_second_per_device": round(rate / trainer.world_size, 2),
            "data_wait": round(min(1.0, wait / trainer.world_size), 4),
            "lost": int(lost) + self.supervisor.lost_earlier,
        }

    def _write(self, trainer: L.Trainer, row: dict[str, Any]) -> None:
        with writing(self.path), open(self.path, "a", newline="") as handle:
            csv.writer(handle).writerow([row[name] for name in COLUMNS])
        for other in trainer.loggers:
            other.log_metrics({f"train/{name}": float(value) for name, value in row.items()}, step=row["step"])

    def _warn_if_stuck(self, trainer: L.Trainer, loss: float, step: int) -> None:
        chance = math.log(self.global_batch)
        if self._warned or not abs(loss - chance) <= _STUCK_WITHIN * chance:  # a loss of NaN is another's matter
            self._stuck_since = None
            return
        self._stuck_since = self._stuck_since or step
        patience = max(100, int(trainer.num_training_batches) // 20)  # steps
        if step - self._stuck_since >= patience:
            self._warned = True
            logger.warning(
                "loss %.4f has stayed at ln(global_batch) = %.4f since step %d: nothing is learned; "
                "look at lr, warmup and whether captions belong to their images",
                loss,
                chance,
                self._stuck_since,
            )


def begin_table(path: Path, columns: Sequence[str], step: int) -> int:
    """Write the header, and of an earlier start's rows those up to ``step`` (the first column): later ones belong to
    steps that were trained, but not saved. Returns the step of the last row; 0 without one."""
    kept: list[list[str]] = []
    if step and path.is_file():
        with open(path, newline="") as handle:
            kept = [row for row in csv.reader(handle) if len(row) == len(columns) and row[0].isdigit()]
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as handle:
        kept = [row for row in kept if int(row[0]) <= step]
        csv.writer(handle).writerows([columns, *kept])
    return int(kept[-1][0]) if kept else 0
