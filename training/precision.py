"""Which float32 products a GPU makes while it trains: open_clip's choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def float32_as_open_clip(device: torch.device) -> Iterator[None]:
    """In the block a GPU's float32 matrix products are TF32 (10 bits of mantissa), as open_clip's loop sets it.

    Nothing changes on other devices. Scores, and the features of an online teacher, set full precision themselves.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
