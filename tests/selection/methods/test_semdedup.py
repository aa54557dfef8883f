from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from helpers.bundle import Bundle
from selection.methods.semdedup import semdedup


@pytest.mark.parametrize("clusters", ["centroids", "cluster_of_row"])
@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("epsilon", [0.03, 0.08, 0.2, 0.35])
def test_golden(bundle: Bundle, keep: str, epsilon: float, clusters: str) -> None:
    given_clusters = torch.from_numpy(bundle.array(f"semdedup/{clusters}.npy"))
    found = semdedup(bundle.features("l14_img"), given_clusters, epsilon, keep)
    assert np.array_equal(found.numpy(), bundle.array(f"semdedup/keep_{keep}_eps{epsilon}.npy"))


def plain(features: Tensor, centroids: Tensor, epsilon: float, keep: str) -> list[bool]:
    features, centroids = features.double(), centroids.double()
    labels = torch.cdist(features, centroids).argmin(1)
    kept = [True] * len(features)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(1)
        ordered = rows[torch.cosine_similarity(features[rows], centroids[label], dim=1).argsort()].tolist()
        if keep == "easy":
            ordered.reverse()
        for position, j in enumerate(ordered):
            kept[j] = all(features[i] @ features[j] <= 1 - epsilon for i in ordered[:position])
    return kept


@settings(deadline=None, max_examples=30)
@given(
    num=st.integers(1, 40),
    num_clusters=st.integers(1, 6),
    epsilon=st.sampled_from([0.01, 0.3, 0.9, 1.1, 1.7, 2.0]),
    keep=st.sampled_from(["hard", "easy"]),
    seed=st.integers(0, 50),
)
def test_equals_the_definition(num: int, num_clusters: int, epsilon: float, keep: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(num, 5, generator=generator) + 0.5, dim=1)
    centroids = torch.randn(num_clusters, 5, generator=generator)
    assert semdedup(features, centroids, epsilon, keep).tolist() == plain(features, centroids, epsilon, keep)


@pytest.mark.parametrize("epsilon", [1.2, 2.0])
def test_the_first_of_every_cluster_stays_however_large_epsilon_is(epsilon: float) -> None:
    """And so does a row that points away from all before it."""
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6], [-1.0, 0.0]])
    centroids = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    for keep, kept in (("hard", [False, True, False, True]), ("easy", [True, False, False, True])):
        assert semdedup(features, centroids, epsilon, keep).tolist() == kept
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert semdedup(opposite, torch.tensor([[0.0, 1.0]]), epsilon).tolist() == [True, True]


def test_labels_stand_for_the_means_of_their_clusters() -> None:
    features = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(60) % 3 * 2  # every second label has no sample
    means = torch.stack([features[labels == label].mean(0) for label in (0, 2, 4)])
    for label, mean in zip((0, 2, 4), means):
        rows = features[labels == label]
        assert semdedup(features, labels, 0.5)[labels == label].tolist() == semdedup(rows, mean[None], 0.5).tolist()


def test_clusters_larger_than_a_tile() -> None:
    """2,500 rows, each second one a copy of the row before: one of each pair stays, whichever tiles they fall in."""
    generator = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(1250, 64, generator=generator), dim=1)
    features = features.repeat_interleave(2, dim=0)[torch.randperm(2500, generator=generator)]
    kept = semdedup(features, torch.zeros(2500, dtype=torch.int32), 0.1)
    assert kept.sum() == 1250
    assert len(features[kept].unique(dim=0)) == 1250


def test_chains_are_dropped_by_dropped_ones() -> None:
    angles = torch.tensor([0.0, 0.3, 0.6, 0.9])
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    centroid = torch.tensor([[1.0, -10.0]])  # rows in order of angle are in order of closeness, last first
    assert semdedup(features, centroid, 1 - 0.95).tolist() == [False, False, False, True]


def test_bad_input_is_refused() -> None:
    features, labels = torch.eye(3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="keep must be hard or easy"):
        semdedup(features, labels, 0.1, "all")
    with pytest.raises(ValueError, match="epsilon 3 is outside"):
        semdedup(features, labels, 3)
    with pytest.raises(ValueError, match="expected 3 integer labels"):
        semdedup(features, labels[:2], 0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        semdedup(features, labels - 1, 0.1)
    with pytest.raises(ValueError, match="clusters has 2 dimensions"):
        semdedup(features, torch.ones(4, 2), 0.1)
