"""The contrastive loss over the global batch."""

from __future__ import annotations

from open_clip.loss import ClipLoss


def contrastive_loss(rank: int, world_size: int) -> ClipLoss:
    """open_clip's symmetric cross-entropy, set as DataComp sets it.

    With several ranks, each rank's rows are compared with all ranks' features, and the gradient flows back through the
    gathering. A rank's value is the mean over its own rows; the mean over ranks is the global batch's loss.
    """
    several = world_size > 1
    return ClipLoss(local_loss=several, gather_with_grad=several, cache_labels=True, rank=rank, world_size=world_size)
