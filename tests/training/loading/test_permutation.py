"""The order of samples: each once per pass, the same whoever asks, and a good shuffle."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from selection.kernels.hashing import hash64
from training.loading.permutation import draw, places_at, replacement


def chi_squared(counts: list[int]) -> float:
    """In standard deviations of the chi-squared distribution from its mean."""
    expected, free = sum(counts) / len(counts), len(counts) - 1
    return (sum((count - expected) ** 2 for count in counts) / expected - free) / (2 * free) ** 0.5


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_pass_holds_every_row_once(num_rows, seed, number):
    places = np.arange(number * num_rows, (number + 1) * num_rows)
    assert np.array_equal(np.sort(draw(places, num_rows, seed, "shuffled")), np.arange(num_rows))


@pytest.mark.parametrize("sampling", ["shuffled", "resampled"])
def test_batches_run_on_across_passes(sampling):
    whole = draw(np.arange(10 * 64), 23, 5, sampling)
    steps = [draw(places_at(step, 64), 23, 5, sampling) for step in range(10)]  # a batch holds nearly three passes
    assert np.array_equal(np.concatenate(steps), whole)
    halves = np.concatenate([draw(places_at(step, 32), 23, 5, sampling) for step in range(20)])
    assert np.array_equal(halves, whole)
    assert np.array_equal(draw(places_at(3, 64)[16:32], 23, 5, sampling), steps[3][16:32])  # a rank's share


def test_it_never_changes():
    # A changed order would make every old checkpoint resume on other data.
    assert draw(places_at(2, 5), 1000, 42, "shuffled").tolist() == [965, 725, 468, 72, 728]
    assert draw(places_at(2, 5), 1000, 42, "resampled").tolist() == [490, 198, 495, 267, 708]
    assert replacement(17, 1, 1000, 42) == 750


def test_all_orders_of_four_are_equally_likely():
    seen = Counter(tuple(draw(np.arange(4), 4, seed, "shuffled").tolist()) for seed in range(4800))
    assert abs(chi_squared([seen[order] for order in permutations(range(4))])) < 4


@pytest.mark.parametrize("num_rows", [5, 24, 97])
def test_every_place_is_equally_likely(num_rows):
    orders = np.stack([draw(np.arange(num_rows), num_rows, seed, "shuffled") for seed in range(60 * num_rows)])
    for place in (0, num_rows // 2, num_rows - 1):
        assert abs(chi_squared(np.bincount(orders[:, place], minlength=num_rows).tolist())) < 4
    # What follows row 0 is any other row.
    first = np.argmax(orders == 0, axis=1)
    inside = first < num_rows - 1
    after = orders[inside, first[inside] + 1]
    assert abs(chi_squared(np.bincount(after, minlength=num_rows)[1:].tolist())) < 4


def test_neighbours_in_the_pool_are_strangers_in_a_batch():
    num_rows, batch = 100_000, 1000
    order = draw(np.arange(num_rows), num_rows, 7, "shuffled")
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / num_rows**0.5
    # 100 shards of 1000: each batch takes from all of them, as if drawn without order.
    shares = [np.bincount(order[start : start + batch] // 1000, minlength=100) for start in range(0, num_rows, batch)]
    assert abs(chi_squared(np.concatenate(shares).tolist())) < 4
    gaps = np.abs(np.diff(order))
    assert abs((gaps < 100).mean() - 2 * 100 / num_rows) < 4 * (2 * 100 / num_rows / num_rows) ** 0.5


def test_passes_and_seeds_differ():
    num_rows = 10_000
    first, second = (draw(np.arange(p * num_rows, (p + 1) * num_rows), num_rows, 0, "shuffled") for p in (0, 1))
    other = draw(np.arange(num_rows), num_rows, 1, "shuffled")
    for one, two in ((first, second), (first, other)):
        assert (one == two).sum() < 10  # 1 is expected
        assert abs(np.corrcoef(one, two)[0, 1]) < 4 / num_rows**0.5


def test_a_billion_rows_need_no_memory():
    num_rows = 1_280_000_003
    rows = draw(np.arange(3 * num_rows - 50_000, 3 * num_rows + 50_000), num_rows, 0, "shuffled")
    assert rows.min() >= 0
    assert rows.max() < num_rows
    assert len(np.unique(rows[:50_000])) == len(np.unique(rows[50_000:])) == 50_000
    assert abs(chi_squared(np.bincount(rows * 100 // num_rows, minlength=100).tolist())) < 4


def test_resampled_draws_with_replacement():
    counts = np.bincount(draw(np.arange(50_000), 500, 0, "resampled"), minlength=500)
    assert abs(chi_squared(counts.tolist())) < 4  # uniform, and as uneven as chance is


def test_hash_takes_any_seed():
    assert len({int(hash64(seed, 1)) for seed in (0, 1, -1, 2**64 - 2, 2**40)}) == 5
