"""The centroids of a pool's own image features, for methods that compare clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint, read_json, write_json
from selection.features.files import FeatureFile
from selection.features.target import write_features
from selection.kernels.kmeans import SAMPLES_PER_CENTROID, kmeans
from selection.kernels.transfer import placed
from selection.pool.location import Pool
from selection.recipe.gather import PoolFeatures
from selection.registry import no_target
from selection.shuffle.cells import join_samples


def make_centroids(pool: Pool, features: str, clusters: int, out: Path, device: torch.device, seed: int = 0) -> None:
    """Write ``out``, (clusters, d) float32 k-means centroids of the pool's image features; a collective call.

    As is usual, k-means looks at a random sample of about 256 rows per cluster, which lies beside ``out`` meanwhile (2
    bytes a number). Centroids that are there, made from the same features, are kept.

    Args:
        features: prefix of the feature arrays in the metadata (``l14``).
        out: a ``.npy``.

    Raises:
        ClipsiftError: for a pool without such features or with fewer usable rows than clusters, or an ``out`` made from
            something else.
    """
    files = [FeatureFile(file.url, features, file.name) for file in pool.metadata]
    if not files:
        raise ClipsiftError(f"pool: {pool.location} has no metadata/*.parquet with features {features}")
    identity = on_rank_zero(lambda: fingerprint([file.fingerprint() for file in files]))
    note = {"target": "pool_centroids", "features": identity, "clusters": clusters, "seed": seed}
    place = out.with_suffix(".json")
    if on_rank_zero(lambda: _is_done(out, place, note)):
        return
    gathered = PoolFeatures(files, device, no_target, out.parent)
    paths = gathered.sample(SAMPLES_PER_CENTROID * clusters, seed)
    on_rank_zero(lambda: write_features(out, _kmeans(paths, clusters, device, seed)))
    on_rank_zero(lambda: write_json(place, note))
    gathered.close()


def _kmeans(paths: list[Path], clusters: int, device: torch.device, seed: int) -> np.ndarray:
    sample = torch.from_numpy(join_samples(paths))
    if len(sample) < clusters:
        raise ClipsiftError(f"target: {len(sample)} usable rows make no {clusters} clusters; lower --clusters")
    return kmeans(placed(sample, device), clusters, seed).cpu().numpy()


def _is_done(out: Path, place: Path, note: dict[str, Any]) -> bool:
    if place.is_file() and read_json(place) != note:
        raise ClipsiftError(f"target: {out} holds the centroids of another pool, number or seed; use another --out")
    return place.is_file() and out.is_file()
