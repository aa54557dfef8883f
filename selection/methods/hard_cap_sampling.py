"""Sampling a training run's draws by score, with repeats held down (FLYT, arXiv 2503.08805): hard caps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clipsift_common.distributed import rank, sum_over_ranks
from selection.kernels.arrays import on_tensors
from selection.kernels.clocks import next_rings
from selection.kernels.cut import Cut, find_cut
from selection.kernels.hashing import hash64
from selection.methods.sampling import Logits, check_size, counts_of_all, highest, uids_of_keys
from selection.options import PositiveInt
from selection.registry import ScoreParts, register_method

SAMPLE = 1 << 18  # samples of which all draws are looked at, for when about the last one of all is


@on_tensors
def hard_cap_sampling(scores: np.ndarray, size: int, cap: int, seed: int = 0) -> np.ndarray:
    """(n,) int64 counts per sample, ``size`` in all: HCS.

    Draws with replacement from softmax(``scores``); a sample that has ``cap`` copies is drawn no more, and one with a
    score that is not finite never. Raises ValueError if ``size`` or ``cap`` is not positive, or the cap leaves no room.

    Draws with replacement come as the rings of independent Poisson processes do, whose rates are the samples'
    exp(score); so the counts are those of the first ``size`` rings, of each sample the first ``cap`` only.
    """
    return counts_of_all(scores, hard_cap_sampling_method, seed, size=size, cap=cap)


@register_method("hard_cap_sampling", by_score=True, by_part=True, repeats=True, version=2)
def hard_cap_sampling_method(parts: ScoreParts, size: int, cap: PositiveInt = 15) -> Iterator[np.ndarray]:
    check_size(size)
    if cap < 1 or size > cap * parts.num:
        raise ValueError(f"cap {cap} on {parts.num} finite scores leaves no room for {size} draws")
    top = highest(parts)
    logits = [Logits(part, top) for part in parts.parts]
    until = _when_about_all_rang(logits, size, parts.num, cap, parts.seed)
    own = parts.scratch / f"{rank():06d}"
    own.mkdir()
    rings = _write_rings(own, logits, cap, parts.seed, until)
    if sum_over_ranks(np.array([sum(part.num_rings for part in rings)]))[0] < size:  # the chance is below 1e-8
        rings = _write_rings(own, logits, cap, parts.seed)
    cut = find_cut(rings, size, dtype=np.float64)
    return (part.counts(cut) for part in rings)


def _rings(
    part: Logits, cap: int, seed: int, until: float = np.inf, every: int = 1
) -> tuple[np.ndarray, np.ndarray, int]:
    """Of one sample in ``every``, the first ``cap`` rings, those until a logarithm of time.

    Returns the logarithms of their times, their rows, and how many rows the part has.
    """
    logits, keys = part()
    rows = np.arange(len(logits))
    if every > 1:
        rows = np.flatnonzero(hash64(seed ^ 1 << 63, keys) % np.uint64(every) == 0)
    times = np.full(len(rows), -np.inf)
    found = [(times[:0], rows[:0])]
    for number in range(cap):
        times = next_rings(times, logits[rows], seed, keys[rows], np.full(len(rows), number))
        rang = times <= until
        rows, times = rows[rang], times[rang]
        found.append((times, rows))
        if not len(rows):
            break
    all_times, all_rows = map(np.concatenate, zip(*found))
    return all_times, all_rows, len(logits)


def _write_rings(folder: Path, parts: list[Logits], cap: int, seed: int, until: float = np.inf) -> list[_Rings]:
    return [
        _Rings(folder / str(number), part.first, *_rings(part, cap, seed, until)) for number, part in enumerate(parts)
    ]


class _Rings:
    """The rings of a part's samples, in files; the first of them score highest."""

    def __init__(self, path: Path, first: int, times: np.ndarray, rows: np.ndarray, num_rows: int) -> None:
        self.path, self.first, self.num_rows, self.num_rings = path, first, num_rows, len(times)
        times.tofile(self.path.with_suffix(".times"))
        rows.tofile(self.path.with_suffix(".rows"))

    def counts(self, cut: Cut) -> np.ndarray:
        """(n,) int64, how many of each sample's rings the cut keeps."""
        return np.bincount(self._rows()[cut.mask(self)[1]], minlength=self.num_rows)

    def scores(self) -> np.ndarray:
        return -np.fromfile(self.path.with_suffix(".times"), np.float64)

    def uids(self, chosen: np.ndarray) -> np.ndarray:
        return uids_of_keys(np.uint64(self.first) + self._rows()[chosen].astype(np.uint64))

    def positions(self, chosen: np.ndarray) -> np.ndarray:
        return np.flatnonzero(chosen).astype(np.uint64)

    def _rows(self) -> np.ndarray:
        return np.fromfile(self.path.with_suffix(".rows"), np.int64)


class _Times:
    """Rings in memory, of which only the times matter."""

    def __init__(self, times: np.ndarray) -> None:
        self.times = times

    def scores(self) -> np.ndarray:
        return -self.times

    def uids(self, chosen: np.ndarray) -> np.ndarray:
        return uids_of_keys(np.flatnonzero(chosen))

    def positions(self, chosen: np.ndarray) -> np.ndarray:
        return np.flatnonzero(chosen).astype(np.uint64)


def _when_about_all_rang(logits: list[Logits], size: int, num: int, cap: int, seed: int) -> float:
    """A logarithm of time until which ``size`` rings are, with a margin of six standard deviations."""
    every = -(-num // SAMPLE)
    if every == 1:
        return np.inf
    mean = size / every
    wanted = int(mean + 6 * (cap * mean) ** 0.5) + 6
    sample = [_Times(_rings(part, cap, seed, every=every)[0]) for part in logits]
    return -float(find_cut(sample, wanted, ties=True, dtype=np.float64).score)
