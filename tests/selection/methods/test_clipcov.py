from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from helpers.bundle import Bundle
from selection.methods.clipcov import ClipCovTerms, clipcov, greedy

CASES = [(block, percent) for block in (10, 25, 200) for percent in (5, 10, 30)]


def features(bundle: Bundle) -> tuple[Tensor, Tensor, Tensor]:
    image, text, labels = (torch.from_numpy(bundle.array(f"clipcov/{n}.npy")) for n in ("image", "text", "label_text"))
    return image, text, labels


def stored(bundle: Bundle) -> ClipCovTerms:
    names = ("class_of_row", "raw", "easiness", "label_own", "image_to_text_centers", "text_to_image_centers")
    return ClipCovTerms(*(bundle.array(f"clipcov/{name}.npy") for name in names))


def order(bundle: Bundle, block: int, percent: int) -> list[int]:
    return bundle.array(f"clipcov/order_block{block}_{percent}pct.npy").tolist()


def test_golden_terms(bundle: Bundle) -> None:
    found, expected = ClipCovTerms.compute(*features(bundle)), stored(bundle)
    assert np.array_equal(found.classes, expected.classes)
    for name in ("raw", "easiness", "label", "image_to_text_centres", "text_to_image_centres"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6, rtol=0)
    np.testing.assert_allclose(expected.score, bundle.array("clipcov/initial_score.npy"), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("block", "percent"), CASES)
def test_golden_order_on_the_stored_terms(bundle: Bundle, block: int, percent: int) -> None:
    terms = stored(bundle)
    stored_similarity = np.load(bundle.folder / "clipcov/class_similarity.npz", allow_pickle=False)
    position = np.empty(len(terms.classes), np.int64)
    for members in terms.members:
        position[members] = np.arange(len(members))

    def covered(members: np.ndarray, picks: np.ndarray) -> np.ndarray:
        positive = stored_similarity[f"class{terms.classes[members[0]]}"].astype(np.float64).clip(min=0)
        i, j = position[members], position[picks]
        return positive[np.ix_(i, j)].sum(1) + positive.T[np.ix_(i, j)].sum(1)

    expected = order(bundle, block, percent)
    assert greedy(terms, covered, len(expected), block).tolist() == expected


@pytest.mark.parametrize(("block", "percent"), CASES)
def test_golden_set_from_the_features(bundle: Bundle, block: int, percent: int) -> None:
    expected = set(order(bundle, block, percent))
    found = clipcov(*features(bundle), len(expected), block).tolist()
    assert len(set(found)) == len(expected)
    assert len(expected & set(found)) / len(expected | set(found)) >= 0.99


def plain_greedy(image: Tensor, text: Tensor, labels: Tensor, size: int, block: int) -> list[int]:
    """The notebook's loop: one score per sample, everything sorted again at every update."""
    terms = ClipCovTerms.compute(image, text, labels)
    scores, classes = terms.score.copy(), terms.classes
    positive = (image.double() @ text.double().T).clamp(min=0).numpy()
    picked: dict[int, list[int]] = {int(k): [] for k in np.unique(classes)}
    new: dict[int, list[int]] = {int(k): [] for k in np.unique(classes)}
    chosen: list[int] = []
    while len(chosen) < size:
        for i in np.lexsort((np.arange(len(scores)), -scores)).tolist():
            k = int(classes[i])
            chosen.append(i)
            picked[k].append(i)
            new[k].append(i)
            if len(chosen) == size:
                break
            if (len(picked[k]) + 1) % block == 0:
                own = np.flatnonzero(classes == k)
                pair = positive[np.ix_(own, new[k])].sum(1) + positive[np.ix_(new[k], own)].sum(0)
                scores[own] -= (pair + terms.raw[picked[k]].sum() + terms.label[new[k]].sum() / 2) / len(own)
                scores[chosen] = -np.inf
                new[k] = []
                break
    return chosen


@settings(deadline=None, max_examples=20)
@given(block=st.integers(1, 12), size=st.integers(1, 150), seed=st.integers(0, 20))
def test_equals_sorting_everything_at_every_update(block: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text, labels = (
        torch.nn.functional.normalize(torch.randn(num, 6, generator=generator), dim=1) for num in (150, 150, 4)
    )
    assert clipcov(image, text, labels, size, block).tolist() == plain_greedy(image, text, labels, size, block)


@settings(deadline=None, max_examples=15)
@given(num=st.integers(20, 200), width=st.integers(3, 12), seed=st.integers(0, 20), half=st.booleans())
def test_the_lazy_greedy_is_the_greedy_that_updates_after_every_pick(
    num: int, width: int, seed: int, half: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text, labels = (
        torch.nn.functional.normalize(torch.randn(n, width, generator=generator) + 0.3, dim=1) for n in (num, num, 3)
    )
    if half:
        image, text = image.half(), text.half()
    positive = (image.double() @ text.double().T).clamp(min=0).numpy()

    def covered(members: np.ndarray, picks: np.ndarray) -> np.ndarray:
        return positive[np.ix_(members, picks)].sum(1) + positive[np.ix_(picks, members)].sum(0)

    eager = greedy(ClipCovTerms.compute(image, text, labels), covered, num, block=1)
    assert clipcov(image, text, labels, num, block=1).tolist() == eager.tolist()


def test_a_class_without_samples_or_rivals() -> None:
    """All samples in the second of two classes: no other centre, and the rest of the score by hand."""
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    terms = ClipCovTerms.compute(image, image, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert terms.classes.tolist() == [1, 1]
    assert terms.image_to_text_centres.tolist() == terms.text_to_image_centres.tolist() == [0, 0]
    np.testing.assert_allclose(terms.raw, [1.6, 1.6], atol=1e-6)
    np.testing.assert_allclose(terms.score, [1.6 + 2 + 0.5, 1.6 + 2 + 0.3], atol=1e-6)
    assert clipcov(image, image, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 2).tolist() == [0, 1]


def test_bad_input_is_refused() -> None:
    image = torch.eye(4)
    for size in (0, 5):
        with pytest.raises(ValueError, match=r"size \d is outside 1\.\.4"):
            clipcov(image, image, image[:2], size)
    with pytest.raises(ValueError, match="block must be positive"):
        clipcov(image, image, image[:2], 1, block=0)
    with pytest.raises(ValueError, match="class_text has 3 dimensions"):
        clipcov(image, image, image[:2, :3], 1)
    with pytest.raises(ValueError, match="class_text: row 1"):
        clipcov(image, image, torch.tensor([[1.0, 0, 0, 0], [math.nan, 0, 0, 0]]), 1)
