"""Sampling a training run's draws by score, with repeats held down (FLYT, arXiv 2503.08805): soft caps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np

from clipsift_common.distributed import rank, sum_over_ranks
from selection.kernels.arrays import on_tensors
from selection.kernels.batches import Draws, batch_ends
from selection.kernels.clocks import log_exponentials
from selection.kernels.cut import Cut, find_cut
from selection.methods.sampling import Logits, check_size, counts_of_all, highest, uids_of_keys
from selection.options import PositiveInt, Range
from selection.registry import ScoreParts, register_method


@on_tensors
def soft_cap_sampling(
    scores: np.ndarray, size: int, alpha: float = 0.15, batch_size: int = 100_000, seed: int = 0
) -> np.ndarray:
    """(n,) int64 counts per sample, ``size`` in all: SCS.

    Repeatedly draws ``batch_size`` different samples with the probabilities softmax(logits) and lowers the logits of
    those drawn by ``alpha``; the logits begin as ``scores`` (n,). The last batch is as small as is left to draw.

    Args:
        scores: logits, such as a scorer's output; only their differences matter. A non-finite score is never drawn.
        size: draws in all; the paper's is the number of samples seen in training.
        alpha: 0 draws every batch alike; the larger, the more even the counts. The paper's released run used 0.15.
        batch_size: draws between two updates, the paper's 100,000 (of 128 M samples); at most the finite scores.

    Time grows with samples and draws (see :mod:`selection.kernels.batches`), memory with ``batch_size``.

    Raises:
        ValueError: no size, a negative alpha, or a batch larger than the number of samples.
    """
    return counts_of_all(scores, soft_cap_sampling_method, seed, size=size, alpha=alpha, batch_size=batch_size)


@register_method("soft_cap_sampling", by_score=True, by_part=True, repeats=True, version=2)
def soft_cap_sampling_method(
    parts: ScoreParts, size: int, alpha: Annotated[float, Range(0)] = 0.15, batch_size: PositiveInt = 100_000
) -> Iterator[np.ndarray]:
    check_size(size)
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")
    if not 1 <= batch_size <= parts.num:
        raise ValueError(f"batch_size {batch_size} is outside 1..{parts.num}, the finite scores")
    draws, top = Draws(alpha, parts.seed), highest(parts)
    own = parts.scratch / f"{rank():06d}"
    own.mkdir()
    logits = [Logits(part, top) for part in parts.parts]
    ends = batch_ends(draws, (part() for part in logits), size // batch_size, batch_size, own)
    drawn = [_Drawn(own / f"{number}.npy", part, draws) for number, part in enumerate(logits)]
    for part in drawn:
        part.draw(ends)
    if rest := size % batch_size:
        last = find_cut(drawn, rest, dtype=np.float64)
        for part in drawn:
            part.draw_last(last)
    total = sum_over_ranks(np.array([sum(int(part.counts().sum()) for part in drawn)]))
    assert total[0] == size, "clocks differ between two passes over them"
    return (part.counts() for part in drawn)


class _Drawn:
    """The counts of a part's samples, in a file; for :func:`find_cut`, their clocks in the last batch.

    That one is smaller than those before, so its clocks are drawn afresh: what is left of the old ones may be less than
    they resolve, where a batch takes samples of very different rates.
    """

    def __init__(self, path: Path, part: Logits, draws: Draws) -> None:
        self.path, self.part, self.draws = path, part, draws

    def counts(self) -> np.ndarray:
        """(n,) int64."""
        return np.load(self.path).astype(np.int64)

    def draw(self, ends: np.ndarray) -> None:
        np.save(self.path, self.draws.counts(ends, *self.part()).astype(np.int32))

    def draw_last(self, cut: Cut) -> None:
        np.save(self.path, (self.counts() + cut.mask(self)[1]).astype(np.int32))

    def scores(self) -> np.ndarray:
        logits, keys = self.part()
        clocks = log_exponentials(self.draws.seed ^ 1 << 63, keys, np.zeros(len(keys), np.int64))
        return logits - self.draws.alpha * self.counts() - clocks

    def uids(self, chosen: np.ndarray) -> np.ndarray:
        return uids_of_keys(self.part()[1][chosen])

    def positions(self, chosen: np.ndarray) -> np.ndarray:
        return np.zeros(np.count_nonzero(chosen), np.uint64)
