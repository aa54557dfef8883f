from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor

from helpers.bundle import Bundle
from helpers.features import unit_rows
from selection.methods.vas_d import vas_d
from selection.scores.vas import second_moment, vas


def recomputed(features: Tensor, size: int, steps: int, start: Tensor | None = None) -> tuple[list[int], float]:
    """The papers' loop as written, in float64, and the smallest gap between a last kept and a first dropped value."""
    features, gap = features.double(), math.inf
    alive = torch.arange(len(features)) if start is None else start
    chunk, moment = -(-(len(alive) - size) // steps), features.T @ features / len(features)
    for step in range(steps):
        values = ((features[alive] @ moment) * features[alive]).sum(1)
        keep = size if step == steps - 1 else max(size, len(alive) - chunk)
        if keep < len(alive):
            gap = min(gap, -values.sort(descending=True).values.diff()[keep - 1].item())
        alive = alive[values.topk(keep).indices]
        moment = features[alive].T @ features[alive] / len(alive)
    return sorted(alive.tolist()), gap


@pytest.mark.parametrize(("clip", "steps"), [("0.45", 1), ("0.45", 10), ("0.45", 41), ("1", 1), ("1", 10)])
def test_golden(bundle: Bundle, clip: str, steps: int) -> None:
    features, size = bundle.features("l14_img"), int(0.3 * 3011)
    found = vas_d(features, size, steps, start(bundle) if clip == "0.45" else None)
    assert np.array_equal(
        bundle.selected(found.numpy()), bundle.array(f"golden/sets/vasd_clip{clip}_vas0.3_T{steps}.npy")
    )


def start(bundle: Bundle) -> Tensor:
    column = bundle.column("clip_l14_similarity_score")
    return torch.from_numpy(np.argsort(-column, kind="stable")[: int(0.45 * len(column))].copy())


def test_golden_steps_that_do_not_divide(bundle: Bundle) -> None:
    """The reference stops with an error here: rounding up makes the set too small before the last step."""
    assert len(vas_d(bundle.features("l14_img"), 903, 58, start(bundle))) == 903


@settings(deadline=None, max_examples=25)
@given(num=st.integers(2, 300), width=st.integers(2, 20), steps=st.integers(1, 40), data=st.data())
def test_equals_the_loop_that_recomputes_the_moment(num: int, width: int, steps: int, data: st.DataObject) -> None:
    """Steps larger and smaller than the width: both ways of taking out what the dropped samples put in."""
    size = data.draw(st.integers(1, num))
    features = unit_rows(num, width, shift=0.7)
    expected, gap = recomputed(features, size, steps)
    assume(gap > 2e-6)  # else float32 may decide a near tie otherwise
    assert vas_d(features, size, steps).tolist() == expected


def test_starts_from_a_subset_but_the_moment_of_the_pool() -> None:
    features = unit_rows(400, 12, shift=0.7) * torch.linspace(2, 0.5, 12)
    first = features[:, -1].topk(150).indices.sort().values
    found = vas_d(features, 60, 2, first)
    assert found.tolist() == recomputed(features, 60, 2, first)[0]
    assert found.tolist() != first[vas_d(features[first], 60, 2)].tolist()


def test_one_step_is_the_top_by_vas() -> None:
    features = unit_rows(200, 10, shift=0.7)
    assert vas_d(features, 50, 1).tolist() == vas(features, second_moment(features)).topk(50).indices.sort()[0].tolist()
    moment = second_moment(unit_rows(30, 10, seed=1, shift=0.7))
    assert vas_d(features, 50, 1, moment=moment).tolist() == vas(features, moment).topk(50).indices.sort()[0].tolist()


def test_order_of_the_rows_does_not_matter() -> None:
    features = unit_rows(500, 16, shift=0.7)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    assert order[vas_d(features[order], 100, 9)].sort()[0].tolist() == vas_d(features, 100, 9).tolist()


def test_half_precision_input() -> None:
    features = unit_rows(500, 16, shift=0.7).half()
    assert vas_d(features, 100, 9).tolist() == recomputed(features, 100, 9)[0]


def test_equal_values_leave_from_the_end() -> None:
    assert vas_d(torch.ones(10, 4) / 2, 3, 2).tolist() == [0, 1, 2]


def test_nothing_to_drop() -> None:
    assert vas_d(unit_rows(5, 3, shift=0.7), 5, 4).tolist() == [0, 1, 2, 3, 4]


def test_bad_input_is_refused() -> None:
    features = unit_rows(10, 4, shift=0.7)
    for size in (0, 11):
        with pytest.raises(ValueError, match=r"outside 1\.\.10"):
            vas_d(features, size, 1)
    with pytest.raises(ValueError, match="steps must be positive"):
        vas_d(features, 5, 0)
    with pytest.raises(ValueError, match="repeated"):
        vas_d(features, 1, 1, torch.tensor([1, 1, 2]))
    with pytest.raises(ValueError, match=r"outside 0\.\.9"):
        vas_d(features, 1, 1, torch.tensor([1, 10]))
    with pytest.raises(ValueError, match="moment has 3"):
        vas_d(features, 1, 1, moment=torch.eye(3))
    features[3] = float("nan")
    with pytest.raises(ValueError, match="features: row 3"):
        vas_d(features, 5, 1)


def test_sub_sampled_moments_are_close_to_whole_ones_and_fixed_by_the_seed() -> None:
    features = unit_rows(3000, 8, shift=0.7)
    whole = set(vas_d(features, 900, 12).tolist())
    found = vas_d(features, 900, 12, moment_share=0.1, seed=3)
    assert len(found) == 900
    assert len(whole & set(found.tolist())) > 800
    assert found.tolist() == vas_d(features, 900, 12, moment_share=0.1, seed=3).tolist()
    assert found.tolist() != vas_d(features, 900, 12, moment_share=0.1, seed=4).tolist()


def test_a_moment_that_is_given_is_not_sub_sampled() -> None:
    features, moment = unit_rows(60, 5, shift=0.7), second_moment(unit_rows(40, 5, seed=1, shift=0.7))
    shared = vas_d(features, 20, 1, moment=moment, moment_share=0.5)
    assert shared.tolist() == vas_d(features, 20, 1, moment=moment).tolist()
    with pytest.raises(ValueError, match=r"moment_share 0 is outside \(0, 1\]"):
        vas_d(features, 20, 1, moment_share=0)
