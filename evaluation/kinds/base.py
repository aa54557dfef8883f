"""What every kind of task has in common: the few calls that the suite makes on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from evaluation.data.loader import Batch, Samples
from evaluation.encoder import Encoder
from evaluation.rules import Rules
from evaluation.tasks import Task

Metrics = Mapping[str, float | None]


class Evaluator(ABC):
    """Measures one task.

    The suite calls, on every rank: :meth:`open` once, :meth:`prepare` once, :meth:`update` per batch of this rank's
    samples (possibly never), :meth:`compute` once. All but ``update`` may talk to the other ranks. Any call may raise
    :class:`~clipsift_common.errors.ClipsiftError`; all but ``update`` then do so on all ranks alike.
    """

    # The leaderboard's mixed precision: the text tower always, the image tower for these kinds only.
    amp_images = False

    def __init__(self, task: Task, data: Path, rules: Rules) -> None:
        self.task, self.rules = task, rules
        self.folder = data / task.folder

    @abstractmethod
    def open(self) -> Samples:
        """Read what the task's files say, images apart: rank 0, but for what is shared out over the ranks."""

    def size(self, samples: Samples) -> int:
        """What the results call the number of samples."""
        return len(samples)

    def chance(self) -> float | None:
        """The score of a guess, if one is known."""
        return self.task.random

    @abstractmethod
    def prepare(self, encoder: Encoder) -> None:
        """Encode the texts."""

    @abstractmethod
    def update(self, features: Tensor, batch: Batch) -> None:
        """Take in a batch: ``features`` (b, d) float32 of its images."""

    @abstractmethod
    def compute(self) -> Metrics:
        """The metrics over all ranks' samples."""
