from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from helpers.bundle import Bundle
from selection.kernels.class_greedy import ClassGreedy
from selection.kernels.positive import PositiveSums
from selection.methods.clipcov import Terms, class_terms, clipcov, merged, picks_of

CASES = [(block, percent) for block in (10, 25, 200) for percent in (5, 10, 30)]


def features(bundle: Bundle) -> tuple[Tensor, Tensor, Tensor]:
    image, text, labels = (torch.from_numpy(bundle.array(f"clipcov/{n}.npy")) for n in ("image", "text", "label_text"))
    return image, text, labels


def stored(bundle: Bundle, name: str) -> np.ndarray:
    return bundle.array(f"clipcov/{name}.npy")


def order(bundle: Bundle, block: int, percent: int) -> list[int]:
    return stored(bundle, f"order_block{block}_{percent}pct").tolist()


TERMS = {
    "easiness": "easiness",
    "label": "label_own",
    "image_to_text_centres": "image_to_text_centers",
    "text_to_image_centres": "text_to_image_centers",
}


def test_golden_terms(bundle: Bundle) -> None:
    image, text, labels = features(bundle)
    found = class_terms(image, text, labels)
    assert len(found) == 8
    for number, terms in enumerate(found):
        rows = terms.members
        assert rows.tolist() == np.flatnonzero(stored(bundle, "class_of_row") == number).tolist()
        for name, golden in TERMS.items():
            np.testing.assert_allclose(getattr(terms, name), stored(bundle, golden)[rows], atol=1e-6, rtol=0)
        sums, is_exact = PositiveSums(image[rows], text[rows]).most_over_all()
        assert is_exact
        np.testing.assert_allclose(sums / len(rows), stored(bundle, "raw")[rows], atol=1e-6, rtol=0)


class Stored:
    """Sums of stored similarities, in float64: C_ij of image i and text j of one class."""

    def __init__(self, similarities: np.ndarray, raw: np.ndarray | None = None) -> None:
        self.pairs = similarities.astype(np.float64).clip(min=0)
        self.pairs = self.pairs + self.pairs.T
        self.raw = self.pairs.sum(1) if raw is None else raw * len(raw)

    def most_over_all(self) -> tuple[np.ndarray, bool]:
        return self.raw + np.arange(len(self.raw)) % 7, False  # bounds, of which some are just reached

    def over_all(self, rows: np.ndarray) -> np.ndarray:
        return self.raw[rows]

    def least_over(self, rows: np.ndarray, picks: np.ndarray) -> np.ndarray:
        return self.pairs[np.ix_(rows, picks)].sum(1) * (rows % 3) / 2

    def over(self, rows: np.ndarray, picks: np.ndarray, since: np.ndarray) -> np.ndarray:
        return np.array([self.pairs[row, picks[first:]].sum() for row, first in zip(rows, since)])


@pytest.mark.parametrize(("block", "percent"), CASES)
def test_golden_order_on_the_stored_terms(bundle: Bundle, block: int, percent: int) -> None:
    similarities = np.load(bundle.folder / "clipcov/class_similarity.npz", allow_pickle=False)
    classes, sequences = stored(bundle, "class_of_row"), []
    for number in range(8):
        rows = np.flatnonzero(classes == number)
        terms = Terms(rows, *(stored(bundle, golden)[rows] for golden in TERMS.values()))
        raw = stored(bundle, "raw")[rows]
        np.testing.assert_allclose(terms.fixed + raw, stored(bundle, "initial_score")[rows], atol=1e-12, rtol=0)
        sums = Stored(similarities[f"class{number}"], raw)
        sequences.append(picks_of(ClassGreedy(terms.fixed, terms.label, sums, block), rows))
    expected = order(bundle, block, percent)
    assert merged(sequences, len(expected)).tolist() == expected


@pytest.mark.parametrize(("block", "percent"), CASES)
def test_golden_set_from_the_features(bundle: Bundle, block: int, percent: int) -> None:
    expected = set(order(bundle, block, percent))
    found = clipcov(*features(bundle), len(expected), block).tolist()
    assert len(set(found)) == len(expected)
    assert len(expected & set(found)) / len(expected | set(found)) >= 0.99


def plain_greedy(image: Tensor, text: Tensor, labels: Tensor, size: int, block: int) -> list[int]:
    """The notebook's loop: one score per sample, everything sorted again at every update."""
    positive = (image.double() @ text.double().T).clamp(min=0).numpy()
    scores, raw, label, classes = np.empty((4, len(image)))
    for number, terms in enumerate(class_terms(image, text, labels)):
        own = terms.members
        raw[own] = (positive[np.ix_(own, own)].sum(0) + positive[np.ix_(own, own)].sum(1)) / len(own)
        scores[own], label[own], classes[own] = terms.fixed + raw[own], terms.label, number
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
                scores[own] -= (pair + raw[picked[k]].sum() + label[new[k]].sum() / 2) / len(own)
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
@given(
    num=st.integers(20, 200),
    width=st.integers(3, 12),
    block=st.sampled_from([1, 7, 40]),
    seed=st.integers(0, 20),
    half=st.booleans(),
)
def test_bounds_instead_of_exact_sums_change_nothing(num: int, width: int, block: int, seed: int, half: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text, labels = (
        torch.nn.functional.normalize(torch.randn(n, width, generator=generator) + 0.3, dim=1) for n in (num, num, 3)
    )
    if half:
        image, text = image.half(), text.half()
    expected = plain_greedy(image, text, labels, num, block)
    with (
        mock.patch.multiple("selection.kernels.positive", EXACT_BELOW=0),
        mock.patch.multiple("selection.kernels.class_greedy", BOUND_EVERY=block, _WINDOW=5),
    ):
        assert clipcov(image, text, labels, num, block).tolist() == expected


@settings(deadline=None, max_examples=30)
@given(num=st.integers(1, 60), width=st.integers(1, 9), shift=st.sampled_from([-2.0, 0.0, 1.0]), seed=st.integers(0, 9))
def test_bounds_of_positive_sums_hold(num: int, width: int, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(num, width, generator=generator) * 3 + shift for _ in "ab")
    pairs = (image.double() @ text.double().T).clamp(min=0).numpy()
    pairs = pairs + pairs.T
    picks, rows = np.arange(0, num, 2), np.arange(num)
    with mock.patch("selection.kernels.positive.EXACT_BELOW", 0):
        sums = PositiveSums(image, text)
        most, is_exact = sums.most_over_all()
    assert not is_exact
    assert (most >= pairs.sum(1)).all()
    assert (sums.least_over(rows, picks) <= pairs[:, picks].sum(1)).all()
    np.testing.assert_allclose(sums.over_all(rows), pairs.sum(1), rtol=1e-5, atol=1e-3)
    since = rows % (len(picks) + 1)
    expected = [pairs[row, picks[first:]].sum() for row, first in zip(rows, since)]
    np.testing.assert_allclose(sums.over(rows, picks, since), expected, rtol=1e-5, atol=1e-3)


def test_a_class_without_samples_or_rivals() -> None:
    """All samples in the second of two classes: no other centre, and the rest of the score by hand."""
    image = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    (terms,) = class_terms(image, image, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert terms.image_to_text_centres.tolist() == terms.text_to_image_centres.tolist() == [0, 0]
    np.testing.assert_allclose(PositiveSums(image, image).most_over_all()[0] / 2, [1.6, 1.6], atol=1e-6)
    np.testing.assert_allclose(terms.fixed, [2 + 0.5, 2 + 0.3], atol=1e-6)
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
