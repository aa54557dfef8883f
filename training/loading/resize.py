"""A crop of a picture made to size: antialiased bicubic, in 8-bit integers."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate

try:
    import training.loading._resize as kernel  # type: ignore[import-not-found, import-untyped]
except ImportError:  # installed without a C compiler
    KERNEL = False
else:
    KERNEL = bool(kernel.SUPPORTED)

Box = tuple[int, int, int, int]  # left, top, width, height


def resize_crop(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Resize the ``box`` of ``pixels`` into ``out``; pixels outside of the box have no influence.

    The compiled kernel (:data:`KERNEL`: there is one for this CPU) and torch give the same bytes, so batches do not
    depend on which of them a machine has. Both differ from Pillow by rounding only.

    Args:
        pixels: (height, width, 3) uint8 RGB, contiguous.
        out: (new height, new width, 3) uint8, contiguous, overwritten.
    """
    if KERNEL:
        kernel.resize(pixels, *box, out)
    else:
        resize_with_torch(pixels, box, out)


def resize_with_torch(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """:func:`resize_crop` on any CPU."""
    left, top, width, height = box
    # A batch of one, whose strides torch takes for channels-last: without the first axis it would repack the pixels.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)[:, :, top : top + height, left : left + width]
    resized = interpolate(image, size=out.shape[:2], mode="bicubic", antialias=True)
    torch.from_numpy(out).copy_(resized[0].permute(1, 2, 0))
