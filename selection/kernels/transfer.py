"""Tensors brought to a GPU: small ones while it computes, large ones when there is room."""

from __future__ import annotations

import torch
from torch import Tensor

GPU_SHARE = 0.5  # of the free memory of a GPU: features that take less are kept there


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; from pinned memory, so that what a GPU still computes is not waited for."""
    if values.device == device:
        return values
    return values.pin_memory().to(device, non_blocking=True)


def placed(features: Tensor, device: torch.device) -> Tensor:
    """``features`` on ``device`` when that is a GPU with room for them, else as given."""
    if device.type == "cuda" and features.nbytes < GPU_SHARE * torch.cuda.mem_get_info(device)[0]:
        return features.to(device)
    return features
