"""Small tensors sent to a GPU while it computes."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; from pinned memory, so that what a GPU still computes is not waited for."""
    if values.device == device:
        return values
    return values.pin_memory().to(device, non_blocking=True)
