"""CLIPScore: the cosine of an image and its caption (Hessel et al. 2021; DataComp's baseline filter)."""

from __future__ import annotations

import torch
from torch import Tensor

from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_pair
from selection.kernels.tiles import linear_tiles
from selection.registry import FeatureBlock, register


@on_arrays
def clip_score(image: Tensor, text: Tensor) -> Tensor:
    """(n,) float32 inner products of the rows of ``image`` and ``text``, both (n, d); cosines for unit rows.

    Features are taken as they are: DataComp's are fp16 and off unit length by up to 2.5e-4, and published scores are
    made without mending that. Raises ValueError if the shapes differ or a row is not finite.
    """
    check_pair(image, text)
    return row_products(image, text)


def row_products(image: Tensor, text: Tensor) -> Tensor:
    """:func:`clip_score` of features that have been checked."""
    scores = torch.empty(len(image), device=image.device)
    for rows in linear_tiles(len(image), image.device):
        scores[rows] = (image[rows].float() * text[rows].float()).sum(1)
    return scores


@register("clip_score")
def clip_score_column(block: FeatureBlock) -> Tensor:
    return clip_score(block.image, block.text)
