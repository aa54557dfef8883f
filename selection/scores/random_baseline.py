"""A score without meaning: the baseline of keeping samples at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selection.registry import FeatureBlock, register


@register("random", needs=())
def random_column(block: FeatureBlock) -> Tensor:
    """Uniform in [0, 1), float32, fixed by the block's seed."""
    numbers = np.random.PCG64(block.seed).random_raw(len(block))  # raw: the same in every version of numpy
    return torch.from_numpy((numbers >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))
