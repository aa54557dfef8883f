"""A run's settings, parsed and checked: what the stages read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsift_app.validation import Validation
from clipsift_common.engines.base import EngineName
from clipsift_common.files import write_text
from clipsift_common.machine import Machine
from evaluation.rules import Precision, Rules
from selection.options import check_least
from selection.pool.location import Pool
from selection.samples.fields import Fields
from selection.settings import Selection
from training.online import Online


@dataclass
class Evaluation:
    """Which tasks, by which rules. ``tasks``: keys, group names or globs; all that the folder has when empty.

    ``workers`` by default: the cores of a rank where a GPU encodes, 2 beside a CPU.
    """

    tasks: list[str] = field(default_factory=list)
    rules: Rules = "leaderboard"
    precision: Precision = "fp32"
    batch_size: int = 256
    workers: int | None = None

    def __post_init__(self) -> None:
        check_least("evaluation.batch_size", self.batch_size, 1)
        check_least("evaluation.workers", self.workers, 0)


@dataclass
class Checkpoint:
    """How often training saves: after so many steps, and after so many minutes."""

    steps: int = 1000
    minutes: float = 15.0

    def __post_init__(self) -> None:
        check_least("checkpoint.steps", self.steps, 1)
        check_least("checkpoint.minutes", self.minutes, 0)


@dataclass
class RunSettings:
    """A parsed and checked run: the YAML's keys; ``data``, ``model`` and ``trainer`` as plain mappings."""

    name: str
    pool: str
    fields: Fields
    trusted: str | None
    eval: str | None
    out: Path
    cache: Path
    truth: str | None
    hub: str | None
    max_loss: float
    max_skipped: int
    seed: int
    selection: Selection
    online: Online | None
    evaluation: Evaluation
    validation: Validation
    checkpoint: Checkpoint
    machine: Machine
    engine: EngineName
    data: dict[str, Any]
    model: dict[str, Any]
    trainer: dict[str, Any]
    published: str | None
    resolved: str  # the YAML of all of this

    def candidates(self) -> Pool:
        """The pool as it lies there now; a collective call."""
        return Pool.shared(self.pool, self.fields)

    def save(self) -> None:
        """Write ``config.yaml`` into the run directory: running it again resumes or repeats the run."""
        write_text(self.out / "config.yaml", self.resolved)
