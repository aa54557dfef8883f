from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from selection.centroids import make_centroids
from selection.features.files import write_feature_file
from selection.kernels import kmeans
from selection.pool.location import Pool
from selection.uids import parse_uids

CPU = torch.device("cpu")


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    """Two files of rows near one of four axes; one row is all zero."""
    rng = np.random.default_rng(0)
    for number in range(2):
        rows = np.eye(4, 8)[np.arange(40) % 4] + rng.normal(0, 0.01, (40, 8))
        rows[7] = 0 if number else rows[7]
        uids = parse_uids([f"{number}{row:03d}" for row in range(40)])
        write_feature_file(tmp_path / "metadata", "l14", str(number), uids, [""] * 40, rows, rows)
    return Pool(str(tmp_path))


def test_centroids_are_the_means_of_clusters(pool: Pool, tmp_path: Path) -> None:
    out = tmp_path / "out" / "pool_centroids_l14.npy"
    make_centroids(pool, "l14", 4, out, CPU, seed=3)
    centroids = np.load(out)
    assert centroids.dtype == np.float32
    nearest = centroids[np.argsort(centroids.argmax(1))]
    np.testing.assert_allclose(nearest, np.eye(4, 8), atol=0.02)
    assert sorted(path.name for path in out.parent.iterdir()) == ["pool_centroids_l14.json", out.name]
    before = out.stat().st_mtime_ns
    make_centroids(pool, "l14", 4, out, CPU, seed=3)
    assert out.stat().st_mtime_ns == before
    with pytest.raises(ClipsiftError, match="another pool, number or seed"):
        make_centroids(pool, "l14", 3, out, CPU, seed=3)
    assert read_json(out.with_suffix(".json"))["clusters"] == 4


def test_a_large_pool_is_sampled(pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("selection.centroids.SAMPLES_PER_CENTROID", 5)
    monkeypatch.setattr("selection.centroids.kmeans", lambda rows, k, seed: seen.append(len(rows)) or rows[:k].float())
    make_centroids(pool, "l14", 4, tmp_path / "out.npy", CPU)
    assert 9 <= seen[0] <= 31  # about 5 for each cluster: four standard deviations of that
    assert kmeans.SAMPLES_PER_CENTROID == 256


def test_too_few_rows_and_other_features_are_refused(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match="79 usable rows make no 80 clusters"):
        make_centroids(pool, "l14", 80, tmp_path / "out.npy", CPU)
    with pytest.raises(ClipsiftError, match="b32_img"):
        make_centroids(pool, "b32", 4, tmp_path / "other.npy", CPU)
    assert not list(tmp_path.glob("*.npy"))
