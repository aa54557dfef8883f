from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from clipsift_common.errors import ClipsiftError
from selection import subset_files
from selection.overlap import jaccard, overlaps, rank_correlation, rank_correlations
from selection.subset import Subset
from selection.subset_files import Runs, combine
from selection.uids import parse_uids

numbers = st.lists(st.integers(0, 40).map(lambda number: number * (2**62)), max_size=40)


def subset_of(values: list[int]) -> Subset:
    return Subset(parse_uids([f"{value:032x}" for value in values]))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset_files, "STRETCH_UIDS", 4)
    monkeypatch.setattr(subset_files, "_STRIDE", 2)


@pytest.mark.usefixtures("small")
@settings(deadline=None)
@given(numbers, numbers, numbers)
def test_stretches_give_what_the_whole_gives(one: list[int], two: list[int], three: list[int]) -> None:
    subsets = [subset_of(values) for values in (one, two, three)]
    sets = [set(values) for values in (one, two, three)]
    shared = overlaps(subsets)
    assert shared.tolist() == [[len(a & b) for b in sets] for a in sets]
    assert jaccard(shared)[0, 1] == pytest.approx(len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1])))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("operation", ["union", "intersection", "difference"])
def test_combined_files_are_the_bytes_of_saved_ones(tmp_path: Path, operation: str) -> None:
    rng = np.random.default_rng(3)
    one, other, third = (subset_of(rng.integers(0, 300, 200).tolist()) for _ in range(3))
    for number, subset in enumerate((one, other, third)):
        subset.save(tmp_path / f"{number}.npy")
    loaded = [Subset.load(tmp_path / f"{number}.npy") for number in range(3)]
    done = combine(tmp_path / "c.npy", [loaded[0].uids], [(operation, loaded[1]), (operation, loaded[2])])
    expected = getattr(one, operation)(other, third)
    expected.save(tmp_path / "expected.npy")
    assert (tmp_path / "c.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    assert (done.num_kept, done.num_unique) == (len(expected), len(expected))
    assert done.after == [len(getattr(one, operation)(other)), len(expected)]


def test_runs_keep_repeats_and_are_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset_files, "RUN_UIDS", 4)
    runs = Runs(tmp_path, "0")
    for values in ([9, 3], [3, 1], [7]):
        runs.add(subset_of(values).uids[::-1])
    runs.flush()
    files = sorted(tmp_path.iterdir())
    assert [len(Subset.load(file)) for file in files] == [4, 1]
    combine(tmp_path / "all.npy", [Subset.load(file).uids for file in files])
    assert Subset.load(tmp_path / "all.npy") == subset_of([1, 3, 3, 7, 9])


def test_files_without_a_header_are_mapped(tmp_path: Path) -> None:
    subset = subset_of([3, 5, 5, 2**70])
    (tmp_path / "raw").write_bytes(subset.uids.tobytes())
    loaded = Subset.load(tmp_path / "raw")
    assert loaded == subset
    assert isinstance(loaded.uids, np.memmap)
    (tmp_path / "unsorted").write_bytes(subset.uids[::-1].tobytes())
    assert Subset.load(tmp_path / "unsorted") == subset
    (tmp_path / "empty").write_bytes(b"")
    assert len(Subset.load(tmp_path / "empty")) == 0
    (tmp_path / "odd").write_bytes(b"\x00\x01\x02\x03\x04")
    with pytest.raises(ClipsiftError, match=r"odd .* no multiple of 16"):
        Subset.load(tmp_path / "odd")


def test_rank_correlation_by_hand() -> None:
    one = np.array([1, 2, 3, 4, np.nan], np.float32)
    assert rank_correlation(one, one * 7) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)
    # Ranks 1 2 3 4 and 1.5 1.5 3.5 3.5: covariance 1, deviations sqrt(1.25) and 1.
    assert rank_correlation(one, np.array([1, 1, 2, 2, 9])) == pytest.approx(1 / np.sqrt(1.25))
    assert np.isnan(rank_correlation(one, np.zeros(5)))


def test_rank_correlations_of_several_scores_at_once() -> None:
    scores = np.array([[1.0, 2, 3, 4], [10, 30, 20, 40], [4, 3, 1, 1], [5, 5, 5, 5]])
    found = rank_correlations(scores)
    # 1 - 6 * sum d^2 / (n (n^2 - 1)); with the tie, -4.5 / sqrt(5 * 4.5); nothing can be said of a constant.
    np.testing.assert_allclose(found[0, :3], [1, 1 - 6 * 2 / 60, -4.5 / 22.5**0.5])
    np.testing.assert_array_equal(found, found.T)
    assert np.isnan(found[3]).all()
    assert np.isnan(rank_correlations(np.empty((2, 0)))).all()
