"""What the methods have in common that draw samples by their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipsift_common.distributed import gather_objects
from selection.registry import ScorePart, ScoreParts, counts_in_memory
from selection.uids import UID_DTYPE


class Logits:
    """The logits of a part's samples, of which the highest of all is ``top``, and their places among all, as keys."""

    def __init__(self, part: ScorePart, top: float) -> None:
        self.first, self.part, self.top = part.first, part, top

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """(n,) float64 logits, 0 at most, and (n,) uint64 keys."""
        logits = self.part.scores().astype(np.float64) - self.top
        return logits, np.arange(len(logits), dtype=np.uint64) + np.uint64(self.first)


def highest(parts: ScoreParts) -> float:
    """The highest score of all ranks; a collective call."""
    own = max((float(part.scores().max(initial=-np.inf)) for part in parts.parts), default=-np.inf)
    return max(gather_objects(own))


def check_size(size: int) -> None:
    """Raise ValueError unless ``size`` is positive."""
    if size < 1:
        raise ValueError(f"size must be positive, got {size}")


def counts_of_all(
    scores: np.ndarray, draw: Callable[..., Iterator[np.ndarray]], seed: int, **options: Any
) -> np.ndarray:
    """(n,) int64 counts that the method ``draw`` gives scores in memory; 0 where one is not finite."""
    if scores.ndim != 1:
        raise ValueError(f"scores: expected one per sample, got shape {scores.shape}")
    finite = np.isfinite(scores)
    counts = np.zeros(len(scores), np.int64)
    counts[finite] = counts_in_memory(draw, scores[finite], seed, **options)
    return counts


def uids_of_keys(keys: np.ndarray) -> np.ndarray:
    """(n,) stand-ins for uids, by which equal clocks are told apart: the samples' keys."""
    uids = np.zeros(len(keys), UID_DTYPE)
    uids["f1"] = keys
    return uids
