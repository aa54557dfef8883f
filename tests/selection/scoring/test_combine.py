from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from clipsift_common.errors import ClipsiftError
from selection.scoring.combine import rank_sum, weighted_sum

NAN = np.nan


def test_ranks_add_up_and_ties_share_theirs() -> None:
    first, second = np.array([0.5, 0.1, 0.5, 9.0]), np.array([3.0, 4.0, 2.0, 1.0])
    assert rank_sum([first, second]).tolist() == [1 + 2, 0 + 3, 1 + 1, 3 + 0]


def test_a_sample_without_a_score_has_no_sum_and_no_rank() -> None:
    first, second = np.array([1.0, NAN, 3.0, 2.0]), np.array([1.0, 5.0, np.inf, 2.0])
    np.testing.assert_array_equal(rank_sum([first, second]), [0, NAN, NAN, 2])
    np.testing.assert_array_equal(weighted_sum([first, second]), [0, NAN, NAN, 1])


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=30))
def test_ranks_are_unmoved_by_any_increasing_change(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.float64).T
    assert rank_sum([np.exp(first), second**3]).tolist() == rank_sum([first, second]).tolist()


def test_ranks_of_a_large_pool_are_exact() -> None:
    """float32 cannot tell 2 ** 24 from the number after it."""
    assert rank_sum([np.zeros(2, np.float32)] * 2).dtype == np.float64


def test_sums_of_scores_brought_to_one_range() -> None:
    clip, sieve = np.array([0.1, 0.3, 0.2]), np.array([10.0, 20.0, 60.0])
    np.testing.assert_allclose(weighted_sum([clip, sieve]), [0, 0.5 + 0.1, 0.25 + 0.5])
    np.testing.assert_allclose(weighted_sum([clip, sieve], [1.0, 0.0]), [0, 1, 0.5])
    np.testing.assert_allclose(weighted_sum([clip, sieve], [-10.0, 0.1], normalise=False), [0, -1, 4])
    assert weighted_sum([np.ones(3), clip]).tolist() == pytest.approx([0, 0.5, 0.25])


def test_every_column_has_a_weight() -> None:
    with pytest.raises(ClipsiftError, match="1 weights for 2 columns"):
        weighted_sum([np.ones(3), np.ones(3)], [1.0])
