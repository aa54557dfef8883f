"""DataComp's image-based filter (Gadre et al. 2023, arXiv 2304.14108): images in the clusters of a target's images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from selection.kernels.checks import check_features, check_same_width
from selection.kernels.products import multiply, whole_row_tiles
from selection.kernels.tiles import fill_rows
from selection.registry import FeatureBlock, register


def nearest_by_product(features: Tensor, centroids: Tensor) -> Tensor:
    """(n,) int64 index of the centroid (k, d) with the largest inner product, in float32; of equal ones the first.

    Centroids are taken at the length they have, as in the published code. Raises ValueError for no centroids, another
    width or a row that is not finite.
    """
    check_features(features)
    check_features(centroids, "centroids")
    check_same_width(features, centroids, "centroids")
    if len(centroids) == 0:
        raise ValueError("centroids is empty")
    keys = centroids.T if features.is_cuda else centroids.T.float()  # the latter once, not for each tile
    parts = whole_row_tiles(len(features), len(centroids), features.device)
    found = torch.empty(len(features), dtype=torch.int64, device=features.device)
    return fill_rows(found, lambda rows: multiply(features[rows], keys).argmax(1), parts)


_hit: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # centroids -> target -> (k,) bool


def _hit_clusters(centroids: Tensor, target: Tensor) -> Tensor:
    """(k,) bool, whether a target image is nearest to the centroid; kept while both tensors are."""
    targets = _hit.setdefault(centroids, WeakTensorKeyDictionary())
    if target not in targets:
        hit = torch.zeros(len(centroids), dtype=torch.bool, device=centroids.device)
        hit[nearest_by_product(target, centroids)] = True
        targets[target] = hit
    return targets[target]


@register("datacomp_image_based", needs=("image",))
def datacomp_image_based(block: FeatureBlock, centroids: str, target: str) -> Tensor:
    """1 where the nearest of the pool's ``centroids`` is also the nearest of some image of ``target``, else 0.

    Both are names of features, ``.npy`` files of (k, d) and (t, d). DataComp has 100,000 centroids of its pool and
    ImageNet's train images as the target; its filter also asks for ``datacomp_caption``.
    """
    centres = block.target(centroids)
    return _hit_clusters(centres, block.target(target))[nearest_by_product(block.image, centres)].float()
