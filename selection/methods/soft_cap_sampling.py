"""Sampling a training run's draws by score, with repeats held down (FLYT, arXiv 2503.08805): soft and hard caps."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from clipsift_common.progress import track
from selection.kernels.arrays import on_tensors
from selection.options import PositiveInt, Range
from selection.registry import Candidates, register_method


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

    Raises:
        ValueError: no size, a negative alpha, or a batch larger than the number of samples.
    """
    logits = _logits(scores, size)
    if alpha < 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")
    if not 1 <= batch_size <= np.isfinite(logits).sum():
        raise ValueError(f"batch_size {batch_size} is outside 1..{np.isfinite(logits).sum()}, the finite scores")
    generator = np.random.default_rng(seed)
    counts = np.zeros(len(logits), np.int64)
    for start in track(range(0, size, batch_size), "soft cap sampling", unit="batches", brief=True):
        num = min(batch_size, size - start)
        # the largest of logit + Gumbel noise are a draw without replacement from the softmax
        keys = logits - np.log(generator.standard_exponential(len(logits)))
        drawn = np.argpartition(keys, len(keys) - num)[len(keys) - num :]
        counts[drawn] += 1
        logits[drawn] -= alpha
    return counts


@on_tensors
def hard_cap_sampling(scores: np.ndarray, size: int, cap: int, seed: int = 0) -> np.ndarray:
    """(n,) int64 counts per sample, ``size`` in all: HCS.

    Draws with replacement from softmax(``scores``); a sample that has ``cap`` copies is drawn no more, and one with a
    score that is not finite never. Raises ValueError if ``size`` or ``cap`` is not positive, or the cap leaves no room.
    """
    logits = _logits(scores, size)
    open_samples = np.flatnonzero(np.isfinite(logits))
    if cap < 1 or size > cap * len(open_samples):
        raise ValueError(f"cap {cap} on {len(open_samples)} finite scores leaves no room for {size} draws")
    generator = np.random.default_rng(seed)
    counts = np.zeros(len(logits), np.int64)
    while (left := size - counts.sum()) > 0:
        # a draw of a full sample is void, which is the same as drawing from those that are open
        weights = np.exp(logits[open_samples] - logits[open_samples].max())
        cumulative = weights.cumsum()
        drawn = np.searchsorted(cumulative[:-1], generator.random(left) * cumulative[-1], side="right")
        counts[open_samples] += np.bincount(drawn, minlength=len(open_samples))
        np.minimum(counts, cap, out=counts)
        open_samples = open_samples[counts[open_samples] < cap]
    return counts


def _logits(scores: np.ndarray, size: int) -> np.ndarray:
    """A float64 copy; what is not finite can not be drawn."""
    if size < 1:
        raise ValueError(f"size must be positive, got {size}")
    logits = np.array(scores, np.float64)
    if logits.ndim != 1:
        raise ValueError(f"scores: expected one per sample, got shape {logits.shape}")
    logits[~np.isfinite(logits)] = -np.inf
    return logits


@register_method("soft_cap_sampling", by_score=True, repeats=True)
def soft_cap_sampling_method(
    candidates: Candidates, size: int, alpha: Annotated[float, Range(0)] = 0.15, batch_size: PositiveInt = 100_000
) -> np.ndarray:
    assert candidates.scores is not None
    return soft_cap_sampling(candidates.scores, size, alpha, batch_size, candidates.seed)


@register_method("hard_cap_sampling", by_score=True, repeats=True)
def hard_cap_sampling_method(candidates: Candidates, size: int, cap: PositiveInt = 15) -> np.ndarray:
    assert candidates.scores is not None
    return hard_cap_sampling(candidates.scores, size, cap, candidates.seed)
