"""What the ranks of a Trainer tell each other; a Trainer that runs alone in a group tells itself."""

from __future__ import annotations

from typing import TypeVar

import lightning as L

from clipsift_common.distributed import gather_objects

T = TypeVar("T")


def gather(trainer: L.Trainer, value: T) -> list[T]:
    """Every rank's plain value, in rank order; this process's alone for a Trainer that runs alone."""
    return gather_objects(value) if trainer.world_size > 1 else [value]
