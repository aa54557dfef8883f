"""Soft and hard caps against their laws, counted out over all orders of draws; near laws fail the same test."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import combinations, permutations

import numpy as np
import pytest

from selection.methods.hard_cap_sampling import hard_cap_sampling
from selection.methods.soft_cap_sampling import soft_cap_sampling

Counts = tuple[int, ...]
Law = dict[Counts, float]

LOGITS = (4.0, 2.0, 1.0, 0.0, -0.4, -0.5, -1.0, -1.5)  # far apart, so that the laws are
ALPHA, BATCH, BATCHES, CAP = 0.6, 2, 3, 2
RUNS = 1500


def weights(counts: Counts, alpha: float) -> np.ndarray:
    return np.exp(np.array(LOGITS[: len(counts)]) - alpha * np.array(counts))


def in_turn(weight: np.ndarray, chosen: Iterable[int]) -> float:
    """The chance of drawing ``chosen``, different ones, in this order, one after the other without replacement."""
    chance, total = 1.0, weight.sum()
    for row in chosen:
        chance, total = chance * weight[row] / total, total - weight[row]
    return chance


def direct(weight: np.ndarray) -> dict[tuple[int, ...], float]:
    rows = range(len(weight))
    return {some: sum(in_turn(weight, order) for order in permutations(some)) for some in combinations(rows, BATCH)}


def conditioned(weight: np.ndarray) -> dict[tuple[int, ...], float]:
    """Independent draws, given that they were as many as a batch: another law without replacement."""
    products = {some: math.prod(weight[list(some)]) for some in combinations(range(len(weight)), BATCH)}
    return {some: product / sum(products.values()) for some, product in products.items()}


def one_at_a_time(weight: np.ndarray) -> dict[tuple[int, ...], float]:
    return {(row,): chance for row, chance in enumerate(weight / weight.sum())}


def law(batch: Callable[[np.ndarray], dict[tuple[int, ...], float]], num: int) -> Law:
    """Of the counts after ``num`` batches."""
    found: Law = {(0,) * len(LOGITS): 1.0}
    for _ in range(num):
        after: Law = defaultdict(float)
        for counts, chance in found.items():
            for some, share in batch(weights(counts, ALPHA)).items():
                after[tuple(count + (row in some) for row, count in enumerate(counts))] += chance * share
        found = after
    return found


SOFT = {"direct": (direct, BATCHES), "conditioned": (conditioned, BATCHES), "one at a time": (one_at_a_time, 6)}
HARD_ROWS, HARD_SIZE = 4, 5


def capped(size: int) -> Law:
    """Draws with replacement; who has ``CAP`` copies is out."""
    found: Law = {(0,) * HARD_ROWS: 1.0}
    for _ in range(size):
        after: Law = defaultdict(float)
        for counts, chance in found.items():
            weight = weights(counts, 0) * (np.array(counts) < CAP)
            for row in np.flatnonzero(weight):
                after[(*counts[:row], counts[row] + 1, *counts[row + 1 :])] += chance * weight[row] / weight.sum()
        found = after
    return found


def given_the_cap() -> Law:
    """Draws with replacement, given that none was above the cap: another law."""
    chances = {counts: multinomial(counts) for counts in capped(HARD_SIZE)}
    return {counts: chance / sum(chances.values()) for counts, chance in chances.items()}


def multinomial(counts: Counts) -> float:
    shares = weights((0,) * HARD_ROWS, 0)
    return math.factorial(sum(counts)) * math.prod(
        share**count / math.factorial(count) for share, count in zip(shares / shares.sum(), counts)
    )


def deviations(found: Iterable[Counts], expected: Law) -> float:
    """By how many of its standard deviations chi-square is above its mean; cells of few are one cell."""
    found = Counter(found)
    runs = sum(found.values())
    cells: dict[Counts | None, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for counts in {*found, *expected}:
        cell = cells[counts if runs * expected.get(counts, 0) >= 5 else None]
        cell[0] += found[counts]
        cell[1] += runs * expected.get(counts, 0)
    chi_square = sum((seen - mean) ** 2 / max(mean, 1e-9) for seen, mean in cells.values())
    freedom = len(cells) - 1
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def marginal(expected: Law, rows: int = 4) -> Law:
    """Of the first rows' counts alone, so that cells are not too many."""
    shared: Law = defaultdict(float)
    for counts, chance in expected.items():
        shared[counts[:rows]] += chance
    return shared


@cache
def drawn() -> list[Counts]:
    scores = np.array(LOGITS)
    runs = (soft_cap_sampling(scores, BATCH * BATCHES, ALPHA, BATCH, seed) for seed in range(RUNS))
    return [tuple(run.tolist()) for run in runs]


def last_drawn() -> Iterator[Counts]:
    """With a last batch of one."""
    scores = np.array(LOGITS)
    for seed in range(RUNS):
        yield tuple(soft_cap_sampling(scores, BATCH + 1, ALPHA, BATCH, seed).tolist())


def short_last() -> Law:
    found: Law = defaultdict(float)
    for counts, chance in law(direct, 1).items():
        for (row,), share in one_at_a_time(weights(counts, ALPHA)).items():
            found[tuple(count + (row == other) for other, count in enumerate(counts))] += chance * share
    return found


@pytest.mark.slow
def test_batches_of_a_quarter_of_the_rows_have_the_law_of_direct_draws() -> None:
    found = {name: deviations((counts[:4] for counts in drawn()), marginal(law(*how))) for name, how in SOFT.items()}
    assert found["direct"] < 4
    assert found["conditioned"] > 6
    assert found["one at a time"] > 20


@pytest.mark.slow
def test_a_short_last_batch_has_the_law_of_direct_draws() -> None:
    assert deviations((counts[:4] for counts in last_drawn()), marginal(short_last())) < 4


@pytest.mark.slow
def test_hard_caps_have_the_law_of_draws_one_after_the_other() -> None:
    scores = np.array(LOGITS[:HARD_ROWS])
    found = [tuple(hard_cap_sampling(scores, HARD_SIZE, CAP, seed).tolist()) for seed in range(RUNS)]
    assert deviations(found, capped(HARD_SIZE)) < 4
    assert deviations(found, given_the_cap()) > 6
