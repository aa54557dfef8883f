"""What a run costs in arithmetic, from the architecture alone: before anything is measured."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from clipsift_common.clip import create_clip

# Floating point operations per second that one GPU is assumed to sustain when nothing was measured: about a third of
# what an A100 or a tenth of what an H100 is rated at in bf16.
ASSUMED_SPEED = 1.0e14
NODE = 8  # GPUs of the node that the heads of configs/reproduce speak of


@cache
def tower_flops(model: str) -> tuple[float, float]:
    """Operations (a multiplication and an addition are two) to encode one image, and one caption."""
    with torch.device("meta"):  # shapes without numbers: nothing is computed, nothing takes memory
        clip: Any = create_clip(model, device="meta")
        size = clip.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        with FlopCounterMode(display=False) as image:
            clip.encode_image(torch.zeros(1, 3, height, width))
        with FlopCounterMode(display=False) as text:
            clip.encode_text(torch.zeros(1, clip.context_length, dtype=torch.long))
    return float(image.get_total_flops()), float(text.get_total_flops())


def training_flops(model: str, samples_seen: int, grad_checkpointing: bool = False) -> float:
    """Of a training: a backward pass is two forward passes, checkpointing one more."""
    return sum(tower_flops(model)) * samples_seen * (4 if grad_checkpointing else 3)


def node_hours(flops: float) -> float:
    """Hours that :data:`NODE` GPUs take at :data:`ASSUMED_SPEED`."""
    return flops / (ASSUMED_SPEED * NODE) / 3600
