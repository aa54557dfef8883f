from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from helpers.bundle import Bundle
from selection.methods.hard_cap_sampling import hard_cap_sampling
from selection.methods.soft_cap_sampling import soft_cap_sampling

RUNS = 40
CASES = ["a015_T1x", "a05_T5x_short_last", "a0_T1x", "hcs3_T1x"]


def draw(scores: np.ndarray, case: dict[str, Any], seed: int) -> np.ndarray:
    if case["kind"] == "hcs":
        return hard_cap_sampling(scores, case["total"], int(case["alpha_or_limit"]), seed)
    return soft_cap_sampling(scores, case["total"], case["alpha_or_limit"], case["batch"], seed)


@pytest.mark.parametrize("name", CASES)
def test_golden_statistics(bundle: Bundle, name: str) -> None:
    """The README's test: means of RUNS runs within four standard errors of the reference's thousand."""
    scores, bucket = bundle.array("scs/scores.npy"), bundle.array("scs/rank_bucket.npy")
    case = json.loads((bundle.folder / "scs/expectations.json").read_text())[name]
    runs = [draw(scores, case, seed) for seed in range(RUNS)]
    assert {run.sum() for run in runs} == {case["total"]}

    expected = case["reference"]
    found = np.mean([np.bincount(bucket, run) for run in runs], axis=0)
    mean, sd, error = (np.array(expected[f"bucket_{key}"]) for key in ("mean", "sd", "sem"))
    often = mean >= 5
    assert (np.abs(found - mean) <= 4 * np.sqrt(sd**2 / RUNS + error**2))[often].all()
    distinct, distinct_sd = np.mean([np.count_nonzero(run) for run in runs]), expected["unique_sd"]
    assert abs(distinct - expected["unique_mean"]) <= 4 * distinct_sd * np.sqrt(1 / RUNS + 1 / case["runs"])
    if case["kind"] == "hcs":
        assert max(run.max() for run in runs) == case["alpha_or_limit"]
    else:
        assert max(run.max() for run in runs) <= -(-case["total"] // case["batch"])


@settings(deadline=None, max_examples=30)
@given(
    num=st.integers(1, 60), size=st.integers(1, 500), alpha=st.floats(0, 5), spread=st.floats(0, 2000), data=st.data()
)
def test_soft_counts_sum_to_the_size(num: int, size: int, alpha: float, spread: float, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, num))
    scores = np.linspace(0, spread, num)
    counts = soft_cap_sampling(scores, size, alpha, batch_size, seed=1)
    assert counts.sum() == size
    assert counts.max() <= -(-size // batch_size)
    assert np.array_equal(counts, soft_cap_sampling(scores, size, alpha, batch_size, seed=1))
    assert scores[0] == 0  # the caller's scores are left alone


@settings(deadline=None, max_examples=30)
@given(num=st.integers(1, 60), cap=st.integers(1, 9), spread=st.floats(0, 2000), data=st.data())
def test_hard_counts_stay_under_the_cap(num: int, cap: int, spread: float, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, num * cap))
    counts = hard_cap_sampling(np.linspace(0, spread, num), size, cap)
    assert counts.sum() == size
    assert counts.max() <= cap


def test_a_large_alpha_makes_the_counts_even_and_none_leaves_them_to_the_scores() -> None:
    scores = np.linspace(0, 4, 100)
    even = soft_cap_sampling(scores, 1000, alpha=50, batch_size=10)
    assert even.min() == even.max() == 10
    free = soft_cap_sampling(scores, 1000, alpha=0, batch_size=1)
    share = np.exp(scores) / np.exp(scores).sum()
    assert abs(free[50:].sum() - 1000 * share[50:].sum()) < 4 * np.sqrt(1000 * share[50:].sum() * share[:50].sum())


def test_scores_that_are_not_finite_are_never_drawn() -> None:
    scores = np.array([1.0, np.nan, 2.0, np.inf, -np.inf])
    assert soft_cap_sampling(scores, 20, 0.1, 2).tolist() == [10, 0, 10, 0, 0]
    assert hard_cap_sampling(scores, 6, 3).tolist() == [3, 0, 3, 0, 0]


def test_bad_numbers_are_refused() -> None:
    scores = np.zeros(5)
    for call in (soft_cap_sampling, hard_cap_sampling):
        with pytest.raises(ValueError, match="size must be positive"):
            call(scores, 0, 1)
        with pytest.raises(ValueError, match="one per sample"):
            call(scores[None], 1, 1)
    with pytest.raises(ValueError, match=r"batch_size 100000 is outside 1\.\.5"):
        soft_cap_sampling(scores, 10)
    with pytest.raises(ValueError, match="alpha must not be negative"):
        soft_cap_sampling(scores, 10, -0.1, 2)
    with pytest.raises(ValueError, match="no room for 11 draws"):
        hard_cap_sampling(scores, 11, 2)
