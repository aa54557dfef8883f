"""The losses over the global batch: CLIP's softmax and SigLIP's sigmoid, both open_clip's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from open_clip.loss import ClipLoss, SigLipLoss

Loss = Literal["clip", "siglip"]

# What a model starts from under each loss (open_clip's ``main.py``); CLIP's own start is the architecture's.
STARTS: dict[Loss, dict[str, float]] = {
    "clip": {},
    "siglip": {"init_logit_scale": math.log(10), "init_logit_bias": -10.0},
}


def contrastive_loss(rank: int, world_size: int, loss: Loss = "clip") -> Callable[..., torch.Tensor]:
    """A function of open_clip's output (features and exp'd logit scale, SigLIP's also the bias).

    With several ranks, each rank's rows are compared with all ranks' features, and the gradient flows back through the
    exchange. A rank's value is the mean over its own rows; the mean over ranks is the global batch's loss.

    Args:
        rank, world_size: of this process.
        loss: ``clip``: symmetric cross-entropy, set as DataComp sets it. ``siglip``: every pair of the batch is a
            yes-or-no question of its own (arXiv 2303.15343): the sum over all b x b pairs of
            ``-log sigmoid(z (scale * image.text + bias))``, z = 1 for the b that belong together and -1 for the
            others, divided by b.
    """
    if loss == "siglip":
        options: dict[str, Any] = {"rank": rank, "world_size": world_size}
        return SigLipLoss(**options)
    several = world_size > 1
    return ClipLoss(local_loss=several, gather_with_grad=several, cache_labels=True, rank=rank, world_size=world_size)
