"""Scores on evaluation tasks while a model is still being trained."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from clipsift_common.clip import LoadedCLIP, evaluation_transform, get_tokenizer
from clipsift_common.distributed import on_rank_zero
from clipsift_common.ends import stop
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import writing
from evaluation.run import evaluate_in_place
from evaluation.tasks import Task, select_tasks
from selection.options import check_least
from training.metrics import begin_table

logger = logging.getLogger("clipsift")

COLUMNS = ("step", "task", "metric", "score")


@dataclass
class Validation:
    """Which tasks (keys, group names, globs; none: no validation), every how many training steps."""

    tasks: list[str] = field(default_factory=list)
    every_steps: int = 1000

    def chosen(self, data: str | None) -> list[Task]:
        """The tasks, whose folders are to be under ``data``. Raises :class:`ClipsiftError` for one without a score."""
        check_least("validation.every_steps", self.every_steps, 1)
        tasks = select_tasks(self.tasks)
        if tasks and not data:
            raise ClipsiftError("validation.tasks: --eval is missing, the folder of evaluation sets")
        for task in tasks:
            if not task.is_scored:
                raise ClipsiftError(f"validation.tasks: {task.key} is only reported, it has no score")
        return tasks


class Validate(L.Callback):
    """Evaluates the model on ``tasks`` after every so many steps, on all ranks, and leaves the training as it was.

    Rows go to ``path`` (step, task, metric, score) and to the Trainer's loggers as ``validation/<task>``. A resumed run
    resumes after the row of its checkpoint, which it makes when there is none: a signal ends a validation at once, and
    training saves before. A task that fails gives a warning, and training goes on.

    Args:
        tasks: tasks with a main metric.
        data: folder of evaluation sets.
        path: the CSV file.
        every_steps: training steps between two validations.
        how: ``rules``, ``batch_size`` and ``workers`` of :func:`evaluation.run.evaluate_in_place`.
    """

    def __init__(self, tasks: Sequence[Task], data: str, path: Path, every_steps: int, **how: Any) -> None:
        self.tasks, self.data, self.path, self.every_steps, self.how = tasks, data, path, every_steps, how

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        step = trainer.global_step
        if on_rank_zero(lambda: begin_table(self.path, COLUMNS, step)) < step and step % self.every_steps == 0:
            self._validate(trainer, pl_module, step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = batch_idx + 1
        if step % self.every_steps or trainer.should_stop:
            return
        with stop.heeding():
            self._validate(trainer, pl_module, step)

    def _validate(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        model: Any = pl_module.result
        clip = LoadedCLIP(model, evaluation_transform(model), get_tokenizer(pl_module.hparams["model"]), "in training")
        with _set_aside(model):
            results, failures = evaluate_in_place(clip, self.data, self.tasks, **self.how)
        if not trainer.is_global_zero:
            return
        for key, reason in failures.items():
            logger.warning("validation at step %d: %s failed: %s", step, key, reason)
        scores = {result["key"]: result["metrics"]["main_metric"] for result in results}
        names = [f"{result['dataset']} {result['metrics']['main_metric']:.4f}" for result in results]
        logger.info("validation at step %d: %s", step, ", ".join(names))
        metrics = {task.key: task.main_metric for task in self.tasks}
        with writing(self.path), open(self.path, "a", newline="") as handle:
            csv.writer(handle).writerows((step, key, metrics[key], score) for key, score in scores.items())
        for other in trainer.loggers:
            other.log_metrics({f"validation/{key}": score for key, score in scores.items()}, step=step)


@contextmanager
def _set_aside(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module's mode and all random states are what they were."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with isolate_rng():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
