from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.bundle import Bundle
from selection.kernels.kmeans import kmeans, nearest


def clouds(num_each: int = 40, num: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points around well separated centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = 10 * torch.eye(num, 8)
    return centres, centres.repeat_interleave(num_each, 0) + 0.1 * torch.randn(num * num_each, 8, generator=generator)


def test_centroids_are_the_means_of_what_is_nearest_to_them() -> None:
    _, points = clouds()
    found = kmeans(points, 9, seed=1)
    labels = torch.cdist(points, found).argmin(1)
    assert torch.equal(nearest(points, found), labels)
    for label in labels.unique():
        torch.testing.assert_close(found[label], points[labels == label].mean(0), atol=1e-5, rtol=0)


def test_clouds_are_found_by_at_least_one_of_several_seeds() -> None:
    centres, points = clouds()
    worst = [torch.cdist(centres, kmeans(points, 6, seed)).amin(1).max().item() for seed in range(20)]
    assert min(worst) < 0.1


def test_fixed_by_the_seed_for_any_number_of_threads() -> None:
    _, points = clouds(300)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(kmeans(points.half(), 7, seed=3))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], kmeans(points.half(), 7, seed=4))


def test_a_centroid_that_loses_all_its_rows_starts_again() -> None:
    points = torch.tensor([[0.0], [0.0], [0.0], [1.0], [5.0]])  # any beginning with equal rows leaves one empty
    for seed in range(10):
        assert sorted(kmeans(points, 3, seed).squeeze(1).tolist()) == [0, 1, 5]


def test_looks_at_a_sample_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selection.kernels.kmeans.SAMPLES_PER_CENTROID", 10)
    _, points = clouds(200)
    sampled = kmeans(points, 6)
    monkeypatch.setattr("selection.kernels.kmeans.SAMPLES_PER_CENTROID", 1000)
    assert sampled.shape == (6, 8)
    assert not torch.equal(sampled, kmeans(points, 6))


def test_golden_assignment(bundle: Bundle) -> None:
    found = nearest(bundle.features("l14_img"), torch.from_numpy(bundle.array("semdedup/centroids.npy")))
    assert found.tolist() == bundle.array("semdedup/cluster_of_row.npy").tolist()


def test_bad_numbers_are_refused() -> None:
    for number in (0, 4):
        with pytest.raises(ValueError, match=r"outside 1\.\.3"):
            kmeans(torch.eye(3), number)
    with pytest.raises(ValueError, match="iterations must be positive"):
        kmeans(torch.eye(3), 2, iterations=0)
