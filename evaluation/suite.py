"""The evaluation as a LightningModule: one model, all tasks, all ranks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as L

from clipsift_common.clip import LoadedCLIP
from clipsift_common.distributed import broadcast_object, world_size
from clipsift_common.errors import ClipsiftError
from evaluation.data.loader import Batch, TaskLoader
from evaluation.encoder import Encoder
from evaluation.kinds import KINDS
from evaluation.results import ResultStore
from evaluation.rules import Precision, Rules
from evaluation.task_run import TaskRun
from evaluation.tasks import TASKS, Task

logger = logging.getLogger("clipsift")

# Tasks that are open beside the one that runs. Ranks open them together; but Lightning fetches a batch ahead, so where
# a rank has only one of a task, its loader of the next task begins before they meet at the start of this one.
_AHEAD = 2


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
        rules, precision: as :mod:`evaluation.rules` explains them.
        batch_size: images encoded at once, per rank.
        workers: processes that decode images, per rank.
    """

    def __init__(
        self,
        clip: LoadedCLIP,
        data: Path,
        tasks: Sequence[Task],
        store: ResultStore,
        rules: Rules = "leaderboard",
        precision: Precision = "fp32",
        batch_size: int = 128,
        workers: int = 4,
    ) -> None:
        super().__init__()
        self.model, self.preprocess = clip.model, clip.preprocess
        self.encoder = Encoder(clip, precision)
        self.data, self.tasks, self.store, self.rules = data, tasks, store, rules
        self.batch_size, self.workers = batch_size, workers
        self.failures: dict[str, str] = {}  # task key -> what is wrong
        self._running: TaskRun | None = None

    def setup(self, stage: str) -> None:
        if self.trainer.world_size != world_size():
            raise ClipsiftError(
                f"evaluation: the trainer has {self.trainer.world_size} processes, the launch {world_size()}; "
                "make devices x num_nodes equal to the launch"
            )
        self.store.open()
        todo = broadcast_object([task.key for task in self.tasks if task.key not in self.store.results])
        self._runs = [TaskRun(KINDS[TASKS[key].kind](TASKS[key], self.data, self.rules)) for key in todo]
        for run in self._runs[:_AHEAD]:
            run.open()

    def test_dataloader(self) -> list[TaskLoader]:
        device = self.trainer.strategy.root_device
        return [TaskLoader(run.opened, self.preprocess, self.batch_size, self.workers, device) for run in self._runs]

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch_idx == 0:
            self._finish()
            self._running = self._runs[dataloader_idx]
            self._running.begin(batch, self.encoder)
            for run in self._runs[dataloader_idx + _AHEAD :][:1]:
                run.open()
        assert self._running is not None
        self._running.step(batch, self.encoder)

    def on_test_epoch_end(self) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._running is None:
            return
        run, self._running = self._running, None
        try:
            result = run.result()
        except ClipsiftError as error:
            self.failures[run.task.key] = str(error)
            logger.warning("%s failed: %s", run.task.name, error)
        else:
            self.store.append(result)  # where it cannot be kept, no other task's can
        run.close()
