from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st

from clipsift_common.errors import ClipsiftError
from helpers.bundle import Bundle
from helpers.features import unit_rows
from selection.registry import FeatureBlock
from selection.scores import SCORES
from selection.scores.normsim import normsim
from selection.scores.vas import second_moment, vas

INF = float("inf")


@pytest.mark.parametrize(("p", "tolerance"), [(2, 1e-5), (10, 2e-6), (INF, 2e-6)])
@pytest.mark.parametrize("arch", ["l14", "b32"])
@pytest.mark.parametrize("target", ["imagenet", "downstream"])
def test_golden_normsim(bundle: Bundle, target: str, arch: str, p: float, tolerance: float) -> None:
    found = normsim(bundle.features(f"{arch}_img"), bundle.target(f"{target}_{arch}"), p)
    torch.testing.assert_close(found, bundle.expected(f"normsim/{target}_{arch}_p{p}"), atol=tolerance, rtol=0)


@pytest.mark.parametrize("arch", ["l14", "b32"])
def test_golden_vas(bundle: Bundle, arch: str) -> None:
    images, texts = bundle.features(f"{arch}_img"), bundle.features(f"{arch}_txt")
    target_images, target_texts = bundle.target(f"imagenet_{arch}"), bundle.target(f"imagenet_{arch}_txt")
    visual, text = second_moment(target_images), second_moment(target_texts)
    cross = second_moment(target_images, target_texts)
    for kind, moment in (("visual", visual), ("text", text), ("cross", cross)):
        expected = bundle.expected(f"vas/{arch}_{kind}_second_moment")
        torch.testing.assert_close(moment, expected, atol=2e-7, rtol=0)
    for kind, scores in (
        ("visual", vas(images, visual)),
        ("text", vas(texts, text)),
        ("cross", vas(images, cross, texts)),
    ):
        torch.testing.assert_close(scores, bundle.expected(f"vas/{arch}_{kind}"), atol=1e-6, rtol=0)


def test_golden_pool_moment(bundle: Bundle) -> None:
    expected = bundle.expected("vas/l14_pool_second_moment_f64")
    torch.testing.assert_close(second_moment(bundle.features("l14_img")).double(), expected, atol=2e-7, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    num=st.integers(1, 700),
    num_target=st.integers(1, 1500),
    width=st.integers(2, 24),
    p=st.sampled_from([1, 2, 3.5, 30, 200, INF]),
)
def test_normsim_is_the_norm_of_the_products(num: int, num_target: int, width: int, p: float) -> None:
    features, target = unit_rows(num, width, 0), unit_rows(num_target, width, 1)
    products = features.double() @ target.double().T
    largest = products.abs().amax(1)  # the 200th power of a small one is below what float64 holds
    exact = torch.linalg.vector_norm(products / largest[:, None], p, dim=1) * largest
    found, power = normsim(features, target, p).double(), 2 if p == 2 else 1  # p = 2 is the root of a float32 sum
    torch.testing.assert_close(found**power, exact**power, atol=1e-6, rtol=3e-6 * power)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 99), num_target=st.integers(1, 60))
@example(seed=21, num_target=1)  # a row orthogonal to the target
def test_properties_of_normsim(seed: int, num_target: int) -> None:
    features, target = unit_rows(40, 8, seed), unit_rows(num_target, 8, seed + 1)
    by_p = torch.stack([normsim(features, target, p) for p in (1, 2, 3, 10, 30, INF)])
    assert (by_p.diff(dim=0) <= 1e-5).all()  # non-increasing in p
    alignment = vas(features, second_moment(target))
    assert alignment.min() >= -1e-6  # a square, but for the rounding of its float32 sum
    torch.testing.assert_close(by_p[1], (num_target * alignment.clamp(min=0)).sqrt(), atol=1e-5, rtol=0)
    torch.testing.assert_close(by_p[-1], (features @ target.T).abs().amax(1))


def test_a_row_orthogonal_to_the_target_is_zero() -> None:
    features, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert all(normsim(features, target, p).item() == 0 for p in (1, 2, 10, INF))


@pytest.mark.parametrize("num", [1, 9, 300, 1500])
def test_same_bits_for_any_number_of_threads(num: int) -> None:
    features, target = unit_rows(num, 40, 0), unit_rows(700, 40, 1)
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 3, 5):
            torch.set_num_threads(num_threads)
            moment = second_moment(target)
            results.append([*(normsim(features, target, p) for p in (2, 7, INF)), moment, vas(features, moment)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_bad_input_is_refused() -> None:
    features, target = unit_rows(5, 4, 0), unit_rows(3, 4, 1)
    with pytest.raises(ValueError, match="p must be at least 1"):
        normsim(features, target, 0.5)
    with pytest.raises(ValueError, match="target has 3 dimensions, features have 4"):
        normsim(features, target[:, :3], INF)
    with pytest.raises(ValueError, match="target is empty"):
        normsim(features, target[:0])
    with pytest.raises(ValueError, match="moment has 3 dimensions"):
        vas(features, torch.eye(3))
    with pytest.raises(ValueError, match="square"):
        vas(features, torch.ones(3, 4))
    with pytest.raises(ValueError, match="no rows"):
        second_moment(features[:0])
    with pytest.raises(ValueError, match="differ in shape"):
        second_moment(features, target)
    target[2, 0] = math.nan
    with pytest.raises(ValueError, match="target: row 2"):
        normsim(features, target, INF)


@pytest.fixture
def block() -> FeatureBlock:
    targets = {"images": unit_rows(30, 6, 2), "texts": unit_rows(30, 6, 3)}
    columns = {"quality": np.array([1, 2, 3, 4], np.float16), "url": np.array(["a", "b", "c", "d"])}
    return FeatureBlock(unit_rows(4, 6, 0), unit_rows(4, 6, 1), seed=11, columns=columns, target=targets.__getitem__)


def test_columns_are_the_pure_functions(block: FeatureBlock) -> None:
    images, texts = block.target("images"), block.target("texts")
    assert torch.equal(SCORES["normsim"](block, target="images"), normsim(block.image, images, 2))
    assert torch.equal(SCORES["normsim"](block, target="images", p="inf"), normsim(block.image, images, INF))
    assert torch.equal(SCORES["vas"](block, target="images"), vas(block.image, second_moment(images)))
    text = SCORES["vas"](block, kind="text", target_text="texts")
    assert torch.equal(text, vas(block.text, second_moment(texts)))
    cross = SCORES["vas"](block, kind="cross", target="images", target_text="texts")
    assert torch.equal(cross, vas(block.image, second_moment(images, texts), block.text))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "audio"}, "kind is visual"),
        ({}, "kind visual needs target"),
        ({"kind": "text", "target": "images", "target_text": "texts"}, "kind text takes no target"),
    ],
)
def test_vas_options_must_fit(block: FeatureBlock, options: dict[str, str], message: str) -> None:
    with pytest.raises(ClipsiftError, match=message):
        SCORES["vas"](block, **options)
