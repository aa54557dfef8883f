from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from clipsift_common.errors import ClipsiftError
from helpers.bundle import Bundle
from selection.recipe.top import keep_datacomp, keep_threshold, keep_top, num_to_keep
from selection.scores.normsim import normsim
from selection.scores.s_cliploss import s_cliploss, s_cliploss_over

UID = np.dtype("u8,u8")


def uids_of(values: list[tuple[int, int]]) -> np.ndarray:
    return np.array(values, dtype=UID)


@pytest.mark.parametrize("arch", ["b32", "l14"])
def test_golden_datacomp_rule(bundle: Bundle, arch: str) -> None:
    column = bundle.column(f"clip_{arch}_similarity_score")
    for percent in (10, 30) if arch == "l14" else (30,):
        kept = keep_datacomp(column, int(len(column) * percent / 100))
        expected = bundle.array(f"golden/sets/datacomp_clipscore_{arch}_{percent}.npy")
        assert np.array_equal(bundle.selected(kept), expected)


def test_golden_threshold(bundle: Bundle) -> None:
    kept = keep_threshold(bundle.column("clip_b32_similarity_score"), 0.20)
    assert np.array_equal(bundle.selected(kept), bundle.array("golden/sets/datacomp_clipscore_b32_threshold0.20.npy"))


@pytest.mark.parametrize(("arch", "percent"), [("b32", 30), ("l14", 10), ("l14", 30)])
def test_golden_exact_count(bundle: Bundle, arch: str, percent: int) -> None:
    column = bundle.column(f"clip_{arch}_similarity_score")
    count = int(len(column) * percent / 100)
    kept = bundle.selected(keep_top(column, bundle.uids, count))
    must = bundle.array(f"golden/sets/exact_n_clipscore_{arch}_{percent}_must.npy")
    may = bundle.array(f"golden/sets/exact_n_clipscore_{arch}_{percent}_may.npy")
    assert len(kept) == count
    assert np.array_equal(kept, np.sort(np.concatenate([must, may[: count - len(must)]])))  # the smallest uids


@functools.cache
def scores_of(bundle: Bundle, mode: str, arch: str) -> np.ndarray:
    """s-CLIPLoss over the whole pool, per file, or per file in the stored batches of 256."""
    image, text = bundle.features(f"{arch}_img"), bundle.features(f"{arch}_txt")
    if mode == "whole":
        return s_cliploss(image, text, bundle.temperature[arch], None).numpy()
    parts = []
    for number, rows in enumerate(bundle.file_rows):
        partitions: list[list[Any]] = [[slice(None)]]
        if mode == "batched":
            orders = torch.from_numpy(bundle.array(f"golden/scliploss/batched/perms_file{number}.npy")).long()
            partitions = [list(order.split(256)) for order in orders]
        parts.append(s_cliploss_over(image[rows], text[rows], bundle.temperature[arch], partitions).numpy())
    return np.concatenate(parts)


@pytest.mark.parametrize("mode_arch", ["whole_l14", "whole_b32", "per_file_l14", "batched_l14"])
def test_golden_top_by_s_cliploss(bundle: Bundle, mode_arch: str) -> None:
    scores = scores_of(bundle, *mode_arch.rsplit("_", 1))
    kept = keep_top(scores, bundle.uids, num_to_keep(len(scores), 0.3))
    assert np.array_equal(bundle.selected(kept), bundle.array(f"golden/sets/scliploss30_{mode_arch}.npy"))


def test_golden_top_by_normsim(bundle: Bundle) -> None:
    scores = normsim(bundle.features("l14_img"), bundle.target("imagenet_l14"), float("inf")).numpy()
    kept = keep_top(scores, bundle.uids, num_to_keep(len(scores), 0.2))
    assert np.array_equal(bundle.selected(kept), bundle.array("golden/sets/normsiminf_imagenet_l14_top20.npy"))


@pytest.mark.parametrize(
    ("mode", "p", "target"),
    [
        ("whole", 2, "imagenet"),
        ("whole", float("inf"), "imagenet"),
        ("whole", float("inf"), "downstream"),
        ("per_file", float("inf"), "imagenet"),
        ("batched", float("inf"), "imagenet"),
    ],
)
def test_golden_sequential_recipe(bundle: Bundle, mode: str, p: float, target: str) -> None:
    first = np.flatnonzero(keep_top(scores_of(bundle, mode, "l14"), bundle.uids, 903))
    similar = normsim(bundle.features("l14_img")[first], bundle.target(f"{target}_l14"), p).numpy()
    kept = first[keep_top(similar, bundle.uids[first], 602)]
    expected = bundle.array(f"golden/sets/recipe_{mode}_l14_scliploss30_normsim{p}_{target}20.npy")
    assert np.array_equal(bundle.selected(kept), expected)


def test_golden_inside_a_given_subset(bundle: Bundle) -> None:
    """Scores of the whole pool, fractions of the given rows."""
    given_rows = np.flatnonzero(np.isin(bundle.uids, bundle.array("golden/sets/given_subset.npy")))
    scores = scores_of(bundle, "whole", "l14")[given_rows]
    first = given_rows[keep_top(scores, bundle.uids[given_rows], num_to_keep(len(given_rows), 0.9))]
    similar = normsim(bundle.features("l14_img"), bundle.target("downstream_l14"), float("inf")).numpy()[first]
    kept = first[keep_top(similar, bundle.uids[first], num_to_keep(len(given_rows), 0.8))]
    expected = bundle.array("golden/sets/recipe_given_subset_scliploss90_normsiminf_downstream80.npy")
    assert np.array_equal(bundle.selected(kept), expected)


def test_golden_truncation(bundle: Bundle) -> None:
    for case in json.loads((bundle.folder / "golden/fraction_truncation.json").read_text()):
        if case["kept"]:
            assert num_to_keep(case["n_rows"], case["fraction"]) == case["kept"]
        else:
            with pytest.raises(ClipsiftError, match="keeps nothing"):
                num_to_keep(case["n_rows"], case["fraction"])


def test_keep_is_a_fraction_or_a_count() -> None:
    assert num_to_keep(10, 1.0) == 10
    assert num_to_keep(10, 1) == 1
    for keep in (0, 11, -1, 0.0, 1.01, float("nan"), True, "0.3"):
        with pytest.raises(ClipsiftError, match="keep"):
            num_to_keep(10, keep)  # type: ignore[arg-type]


scores_and_uids = st.lists(
    st.tuples(
        st.sampled_from([0.0, -0.0, 1.0, 2.0, -3.0, float("nan"), float("inf"), float("-inf")]),
        st.integers(0, 3),
        st.integers(0, 2**64 - 1),
    ),
    max_size=40,
    unique_by=lambda row: row[1:],
)


@given(rows=scores_and_uids, count=st.integers(0, 45))
def test_top_is_the_head_of_a_sort_by_score_then_uid(rows: list[tuple[float, int, int]], count: int) -> None:
    scores = np.array([row[0] for row in rows], np.float32)
    uids = uids_of([row[1:] for row in rows])
    finite = [i for i, row in enumerate(rows) if np.isfinite(row[0])]
    expected = sorted(finite, key=lambda i: (-rows[i][0], rows[i][1:]))[:count]
    assert sorted(expected) == np.flatnonzero(keep_top(scores, uids, count)).tolist()


@given(rows=scores_and_uids, count=st.integers(0, 45))
def test_datacomp_rule_is_a_sorted_rank(rows: list[tuple[float, int, int]], count: int) -> None:
    scores = np.array([row[0] for row in rows], np.float32)
    ranked = sorted(scores[np.isfinite(scores)], reverse=True)
    cut = ranked[count] if count < len(ranked) else -np.inf
    expected = [i for i, score in enumerate(scores) if np.isfinite(score) and score >= cut]
    assert np.flatnonzero(keep_datacomp(scores, count)).tolist() == expected


def test_threshold_is_inclusive() -> None:
    scores = np.array([0.1, 0.2, 0.3, np.nan, np.inf, -np.inf], np.float32)
    assert keep_threshold(scores, float(np.float32(0.2))).tolist() == [False, True, True, False, False, False]


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 scores for 1 uids"):
        keep_top(np.zeros(2, np.float32), uids_of([(0, 1)]), 1)
