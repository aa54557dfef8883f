"""One task from its first batch to its line of results, agreed on by all ranks."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from clipsift_common.distributed import broadcast_object, gather_objects, on_rank_zero, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import Progress
from evaluation.data.loader import Batch, Samples
from evaluation.encoder import Encoder
from evaluation.kinds.base import Evaluator
from evaluation.results import Result

_NONE = torch.iinfo(torch.int64).max  # position of no sample


class TaskRun:
    """A task while it is being evaluated.

    Every rank calls :meth:`open`, then :meth:`begin` with its first batch, :meth:`step` with all of its batches,
    :meth:`result` once.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.task = evaluator, evaluator.task
        self.samples: Samples
        self.failure: str | None = None

    def open(self) -> None:
        """Read what the task's files say, images apart; what is wrong with them is kept."""
        folder = self.evaluator.folder
        try:
            if not on_rank_zero(folder.is_dir):
                raise ClipsiftError(f"{self.task.key}: {folder} does not exist; download the task or leave it out")
            self.samples = self.evaluator.open()
        except ClipsiftError as error:
            self.failure = str(error)

    def opened(self) -> Samples:
        """What :meth:`open` has opened. Raises :class:`ClipsiftError` with what was wrong."""
        if self.failure is not None:
            raise ClipsiftError(self.failure)
        return self.samples

    def begin(self, batch: Batch, encoder: Encoder) -> None:
        """Agree with the other ranks that the task can be read, and encode its texts."""
        self.started = time.monotonic()
        self.first_bad = torch.full((), _NONE, device=encoder.device)
        self.failure = next(filter(None, gather_objects(batch.get("failure"))), None)
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

    def result(self) -> Result:
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
