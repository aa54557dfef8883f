"""k-means over tiles: Lloyd's iterations, the same centroids for any number of threads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from clipsift_common.progress import track
from selection.kernels.checks import check_features
from selection.kernels.moments import group_means
from selection.kernels.products import multiply, split_for, whole_row_tiles
from selection.kernels.tiles import fill_rows

SAMPLES_PER_CENTROID = 256  # more rows move a centroid little


def kmeans(features: Tensor, num_centroids: int, seed: int = 0, iterations: int = 20) -> Tensor:
    """(k, d) float32 centroids, means of their clusters by Euclidean distance.

    Begins with random rows and looks at a random sample of at most 256 k rows, as is usual at this size. A cluster
    that has lost all its rows starts again at the row that is farthest from its centroid. Time O(256 k^2 d) per
    iteration, memory that of the sample. Stops early when no row changes its cluster.

    Args:
        features: (n, d), any floating dtype; may be memory mapped.
        num_centroids: k, at most n.
        seed: of the sample and the beginning.

    Raises:
        ValueError: k or iterations out of range, or a row that is not finite.
    """
    norms = check_features(features)
    if not 1 <= num_centroids <= len(features):
        raise ValueError(f"num_centroids {num_centroids} is outside 1..{len(features)}")
    if iterations < 1:
        raise ValueError(f"iterations must be positive, got {iterations}")
    numbers = np.random.PCG64(np.random.SeedSequence([seed, num_centroids])).random_raw(len(features))
    order = torch.from_numpy(np.argsort(numbers, kind="stable")).to(features.device)
    centroids = features[order[:num_centroids]].float()
    chosen = order[: SAMPLES_PER_CENTROID * num_centroids].sort().values
    sample, squares = features[chosen], norms[chosen].square()
    labels = torch.full((len(sample),), -1, device=features.device)
    for _ in track(range(iterations), "k-means", unit="iterations", brief=True):
        found, distances = _assign(sample, centroids)
        if torch.equal(found, labels):
            break
        labels = found
        counts = labels.bincount(minlength=num_centroids)
        centroids = group_means(sample, labels, num_centroids)
        empty = (counts == 0).nonzero().squeeze(1)
        if len(empty):
            farthest = (distances + squares).sort(descending=True, stable=True).indices[: len(empty)]
            centroids[empty] = sample[farthest].float()
    return centroids


def nearest(features: Tensor, centroids: Tensor) -> Tensor:
    """(n,) int64 index of the centroid (k, d) at the smallest Euclidean distance; of equal ones the first."""
    return _assign(features, centroids)[0]


def _assign(features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) nearest centroids and (n,) squared distances to them, less each row's own square."""
    centroids = centroids.float()  # means, which one half would round
    squares, pieces = centroids.square().sum(1), split_for(features, centroids.T)
    parts = whole_row_tiles(len(features), len(centroids), features.device)
    indices = torch.empty(len(features), dtype=torch.int64, device=features.device)

    def strip(rows: slice) -> Tensor:
        if len(pieces) == 1:
            distances = torch.addmm(squares, features[rows].float(), pieces[0], alpha=-2)
        else:
            products = multiply(features[rows], pieces[0])
            for piece in pieces[1:]:
                products += multiply(features[rows], piece)
            distances = products.mul_(-2).add_(squares)
        smallest = distances.min(1)
        indices[rows] = smallest.indices
        return smallest.values

    return indices, fill_rows(torch.empty(len(features), device=features.device), strip, parts)
