"""The evaluation as a LightningModule: one model, all tasks, all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from common.clip import LoadedCLIP
from common.distributed import broadcast_object, gather_objects, world_size
from common.errors import ClipsiftError
from common.progress import Progress
from evaluation.encoder import Encoder
from evaluation.evaluator import Evaluator
from evaluation.kinds import KINDS
from evaluation.loader import Batch, Samples, TaskLoader
from evaluation.results import ResultStore
from evaluation.tasks import TASKS, Task

logger = logging.getLogger("clipsift")

_NONE = torch.iinfo(torch.int64).max  # position of no sample


class DataCompSuite(L.LightningModule):
    """Evaluates a CLIP on tasks: ``Trainer.test(DataCompSuite(...))``. Afterwards ``store.results`` and ``failures``.

    Each task is one dataloader. Ranks talk to each other only between tasks, so that it does not matter how samples
    are spread over them; what they exchange are whole-number counts (and features, for retrieval), so that the results
    do not depend on it either. A task that fails on any rank is given up on all of them, and the next one begins.

    Args:
        clip: the model, moved to the trainer's device and back.
        data: folder with the tasks' folders.
        tasks: what to evaluate; tasks that the store has already are skipped.
        store: where results go and come from.
        rules: ``leaderboard`` (as the published numbers were made) or ``corrected``.
        precision: ``fp32`` or ``amp``; see :class:`Encoder`.
        batch_size: images encoded at once, per rank.
        workers: processes that decode images, per rank.
    """

    def __init__(
        self,
        clip: LoadedCLIP,
        data: Path,
        tasks: Sequence[Task],
        store: ResultStore,
        rules: str = "leaderboard",
        precision: str = "fp32",
        batch_size: int = 128,
        workers: int = 4,
    ) -> None:
        super().__init__()
        self.model, self.preprocess = clip.model, clip.preprocess
        self.encoder = Encoder(clip, precision)
        self.data, self.tasks, self.store, self.rules = data, tasks, store, rules
        self.batch_size, self.workers = batch_size, workers
        self.failures: dict[str, str] = {}  # task key -> what is wrong
        self._running: _Running | None = None

    def setup(self, stage: str) -> None:
        if self.trainer.world_size != world_size():
            raise ClipsiftError(
                f"evaluation: the trainer has {self.trainer.world_size} processes, the launch {world_size()}; "
                "make devices x num_nodes equal to the launch"
            )
        self.store.open()
        todo = broadcast_object([task.key for task in self.tasks if task.key not in self.store.results])
        self.evaluators = [KINDS[TASKS[key].kind](TASKS[key], self.data, self.rules) for key in todo]

    def test_dataloader(self) -> list[TaskLoader]:
        self._runs = [_Running(evaluator) for evaluator in self.evaluators]
        return [TaskLoader(run.open, self.preprocess, self.batch_size, self.workers) for run in self._runs]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            self._finish()
            self._running = self._runs[dataloader_idx]
            self._running.begin(batch, self.encoder)
        assert self._running is not None
        self._running.step(batch, self.encoder)

    def on_test_epoch_end(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._running is None:
            return
        run, self._running = self._running, None
        try:
            self.store.append(run.result())
        except ClipsiftError as error:
            self.failures[run.task.key] = str(error)
            logger.warning("%s failed: %s", run.task.name, error)
        run.close()


class _Running:
    """A task while it is being evaluated."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.task = evaluator, evaluator.task
        self.samples: Samples
        self.failure: str | None = None

    def open(self) -> Samples:
        folder = self.evaluator.folder
        if not folder.is_dir():
            raise ClipsiftError(f"{self.task.key}: {folder} does not exist; download the task or leave it out")
        self.samples = self.evaluator.open()
        return self.samples

    def begin(self, batch: Batch, encoder: Encoder) -> None:
        """Agree with the other ranks that the task could be opened, and encode its texts."""
        self.started = time.monotonic()
        self.first_bad = torch.full((), _NONE, device=encoder.device)
        self.failure = next(filter(None, gather_objects(batch.get("failure"))), None)
        sizes = [] if self.failure else gather_objects(len(self.samples))
        if len(set(sizes)) > 1:
            self.failure = f"{self.task.key}: {self.evaluator.folder} is not the same on all nodes: {sizes} samples"
        if self.failure is None:
            self.progress = Progress(self.task.name, len(self.samples))
            try:
                self.evaluator.prepare(encoder)
            except ClipsiftError as error:
                self.failure = f"{self.task.key}: {error}"

    def step(self, batch: Batch, encoder: Encoder) -> None:
        self.failure = self.failure or batch.get("failure")
        if self.failure is not None or "image" not in batch:
            return
        amp = self.evaluator.amp_images or self.evaluator.rules == "corrected"
        features = encoder.images(batch["image"], amp)
        # Kept on the device: asking for the answer now would make the device wait for us at every batch.
        self.first_bad = torch.minimum(self.first_bad, _first_not_finite(features, batch["position"]))
        self.evaluator.update(features, batch)
        left = len(self.samples) - self.progress.done
        self.progress.advance(min(left, len(features) * world_size()))

    def result(self) -> dict:
        """The task's line of results, the same on all ranks. Raises :class:`ClipsiftError` if any rank failed."""
        states = gather_objects((self.failure, int(self.first_bad)))
        failure = next((failure for failure, _ in states if failure is not None), None)
        if failure is None and (bad := min(position for _, position in states)) != _NONE:
            failure = f"{self.task.key}: {self.samples.name(bad)} has image features that are not finite"
        if failure is not None:
            raise ClipsiftError(failure)
        metrics = dict(self.evaluator.compute())
        main = None if self.task.main_metric is None else metrics[self.task.main_metric]
        self.progress.advance(0, **{self.task.main_metric or "main_metric": "none" if main is None else f"{main:.4f}"})
        self.progress.close()
        result = {
            "key": self.task.key,
            "dataset": self.task.name,
            "metrics": metrics | {"main_metric": main},
            "random": self.evaluator.chance(),
            "num_samples": self.evaluator.size(self.samples),
            "seconds": round(time.monotonic() - self.started, 3),
        }
        return broadcast_object(result)  # the seconds are rank 0's

    def close(self) -> None:
        """Let go of the task's index, open files and features."""
        vars(self).clear()


def _first_not_finite(features: Tensor, positions: Tensor) -> Tensor:
    return torch.where(features.isfinite().all(dim=1), _NONE, positions).min()
