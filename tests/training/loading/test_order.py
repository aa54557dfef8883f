"""Windows of shards and weights: every sample once per pass, a pure function, and how good a shuffle it is."""

from __future__ import annotations

import numpy as np
import pytest

from training.loading.order import SampleOrder


def make(counts: list[int], **changes) -> SampleOrder:
    starts = np.concatenate([[0], np.cumsum(counts)])
    options = {"global_batch": 64, "seed": 3, "sampling": "shuffled", "starts": starts} | changes
    return SampleOrder(rows=np.arange(starts[-1]), **options)


def shard_of(order: SampleOrder, rows: np.ndarray) -> np.ndarray:
    return np.searchsorted(order.starts, rows, "right") - 1


@pytest.mark.parametrize("counts", [[5], [1, 1, 1], [40, 7, 23, 1, 90, 12, 33], [100] * 10])
@pytest.mark.parametrize("window", [1, 3, 20])
def test_a_pass_holds_every_sample_once(counts, window):
    order, num_rows = make(counts, window=window), sum(counts)
    for number in (0, 1, 5):
        rows = order.at(np.arange(number * num_rows, (number + 1) * num_rows))
        assert np.array_equal(np.sort(rows), np.arange(num_rows))
        # A window's shards are read to their end before the next window's.
        in_turn = list(dict.fromkeys((shard_of(order, rows)).tolist()))
        assert sorted(in_turn) == list(range(len(counts)))


@pytest.mark.parametrize("sampling", ["shuffled", "resampled"])
def test_any_part_of_the_sequence_is_the_same_alone(sampling):
    options = {"sampling": sampling, "window": 3}
    whole = make([40, 7, 23, 1, 90, 12, 33], **options).at(np.arange(900))
    for start, stop in ((0, 1), (100, 164), (205, 207), (640, 900)):  # a pass is 206
        assert np.array_equal(make([40, 7, 23, 1, 90, 12, 33], **options).at(np.arange(start, stop)), whole[start:stop])
    assert not np.array_equal(make([40, 7, 23, 1, 90, 12, 33], **options, seed=4).at(np.arange(900)), whole)


def test_it_never_changes():
    # A changed order would make every old checkpoint resume on other data.
    assert make([30] * 9, window=2).at(np.arange(100, 105)).tolist() == [57, 47, 186, 54, 33]
    assert make([30] * 9, window=2, sampling="resampled").at(np.arange(5)).tolist() == [167, 151, 169, 143, 123]


def test_a_sample_may_come_anywhere_in_a_pass():
    places = np.concatenate(
        [np.argmax(make([20] * 12, window=3, seed=seed).at(np.arange(240)) == 77) for seed in range(600)], axis=None
    )
    counts = np.bincount(places // 20, minlength=12)
    assert abs(((counts - 50) ** 2 / 50).sum() - 11) / 22**0.5 < 4


def test_what_a_window_costs():
    """As the docstring says: batches are of W shards; two samples of a shard meet S / W times as often as by chance."""
    shards, per_shard, batch = 60, 100, 50
    num_rows = shards * per_shard
    meetings = {}
    for window in (0, 4, 16, 60):
        pairs = []
        for seed in range(12):
            order = make([per_shard] * shards, window=window, seed=seed)
            mine = shard_of(order, order.at(np.arange(num_rows))).reshape(-1, batch)
            assert all(len(np.unique(shard)) <= 2 * (window or shards) for shard in mine)
            same = sum((np.bincount(shard, minlength=shards) ** 2).sum() - batch for shard in mine)
            pairs.append(same / (len(mine) * batch * (batch - 1)))
        meetings[window] = np.mean(pairs) * (num_rows - 1) / (per_shard - 1)  # 1: as chance has it
    assert meetings[0] == pytest.approx(1, rel=0.03)
    assert meetings[60] == pytest.approx(1, rel=0.03)
    assert meetings[16] == pytest.approx(60 / 16, rel=0.1)  # the last window is smaller, the ratio a little higher
    assert meetings[4] == pytest.approx(60 / 4, rel=0.05)
    # Within a window nothing of the order in the pool is left, nor of one pass in the next.
    order = make([per_shard] * shards, window=4)
    first, second = (order.at(np.arange(p * num_rows, (p + 1) * num_rows)) for p in (0, 1))
    assert (np.diff(first) == 1).mean() < 4 / (4 * per_shard)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.4  # 15 windows only: the coarse order is that random
    assert (first == second).mean() < 0.01


@pytest.mark.parametrize("window", [0, 3])
def test_weights_are_shares_of_the_draws(window):
    counts, weights = [50, 100, 10, 200], np.array([2.0, 1.0, 0.0, 0.5])
    order = make(counts, sampling="resampled", weights=weights, window=window)
    drawn = order.at(np.arange(400_000))
    shares = np.bincount(shard_of(order, drawn), minlength=4) / len(drawn)
    assert shares == pytest.approx(np.array(counts) * weights / 300, abs=0.03 if window else 0.004)
    inside = np.bincount(drawn[drawn < 50], minlength=50)
    assert inside.min() > 0.8 * inside.mean()
    replaced = [order.instead(place, attempt) for place in range(300) for attempt in (1, 2)]
    assert not any(150 <= row < 160 for row in replaced)  # weight 0


def test_weighted_windows_read_few_shards_at_a_time():
    order = make([100] * 20, sampling="resampled", window=4)
    rows = order.at(np.arange(4000)).reshape(10, 400)
    assert all(len(np.unique(shard_of(order, part))) <= 4 for part in rows)


def test_multiplicities_count_as_samples():
    order = SampleOrder(np.array([0, 0, 0, 1, 2]), 8, 0, "resampled", np.array([0, 4, 5]), weights=np.array([1.0, 4.0]))
    shares = np.bincount(order.at(np.arange(40_000)), minlength=3) / 40_000
    assert shares == pytest.approx([3 / 8, 1 / 8, 4 / 8], abs=0.02)


def test_replacements_and_fetching_stay_in_the_window():
    order = make([40, 7, 23, 1, 90, 12, 33], window=2)
    for place in range(0, 412, 5):
        number, rows = order.ahead_of(place)
        ahead = shard_of(order, np.array(rows)).tolist()
        assert len(ahead) == len(set(ahead)) <= 4
        assert shard_of(order, order.at(np.array([place])))[0] in ahead[:2]
        assert {shard_of(order, np.array([order.instead(place, attempt)]))[0] for attempt in range(1, 9)} <= set(
            ahead[:2]
        )
        assert number == order.ahead_of(place)[0]
