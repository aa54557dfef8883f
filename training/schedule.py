"""DataComp's learning rate, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

import torch


def learning_rate(step: int, total_steps: int, peak: float, warmup: int) -> float:
    """Rate of a 0-based step: linear warm-up to ``peak`` over ``warmup`` steps, then half a cosine towards 0.

    open_clip's ``scheduler.py:cosine_lr``. A run shorter than its warm-up (DataComp's debug scale) ends inside it.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total_steps - warmup))) * peak


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The optimizer's groups by open_clip's rule (``main.py``).

    No decay for tensors of fewer than 2 dimensions or with bn, ln, bias or logit_scale in their name.
    """
    plain: list[torch.nn.Parameter] = []
    decayed: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
            (plain if exempt else decayed).append(parameter)
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
