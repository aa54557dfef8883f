"""JPEGs made pixels of on a GPU: ``data.decode: gpu``, for nodes with few cores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from clipsift_common.errors import ClipsiftError, first_line
from training.loading.resize import Box

_START, _END = b"\xff\xd8", b"\xff\xd9"


def check_gpu_decoding(device: torch.device) -> None:
    """Raise :class:`ClipsiftError` unless ``device`` is a GPU that torchvision decodes JPEGs on (nvJPEG)."""
    if device.type != "cuda":
        raise ClipsiftError("data.decode: gpu needs a GPU; take fast")
    try:
        grey = np.full((16, 16, 3), 128, np.uint8)
        decode_jpeg([as_tensor(simplejpeg.encode_jpeg(grey))], ImageReadMode.RGB, device)
    except RuntimeError as error:
        raise ClipsiftError(
            f"data.decode: gpu: torchvision decodes no JPEGs on {device} ({first_line(error)}); take fast"
        ) from error


def jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """(width, height) of a colour JPEG that is whole by its marks; None for all that a CPU had better decode."""
    if data[:2] != _START or data[-2:] != _END:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if space == "YCbCr" and width * height <= max_pixels else None


def decode_jpegs(jpegs: Sequence[Tensor], device: torch.device) -> list[Tensor | None]:
    """(3, h, w) uint8 RGB on ``device`` of each JPEG, its bytes on the CPU; None for one that the GPU refuses.

    One that is refused spoils the call that it is in, so the call is halved until it stands alone.
    """
    if not jpegs:
        return []
    try:
        return list(decode_jpeg(list(jpegs), ImageReadMode.RGB, device))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        if len(jpegs) == 1:
            return [None]
    half = len(jpegs) // 2
    return decode_jpegs(jpegs[:half], device) + decode_jpegs(jpegs[half:], device)


def resized(picture: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """(3, h, w) float32, whole numbers in [0, 255]: the ``box`` of (3, H, W) pixels, antialiased bicubic.

    As Pillow and torch's 8-bit kernel of CPUs do, which torch does not have for GPUs: across first, then down, each
    rounded to whole pixels. What is left is a difference in rounding.
    """
    left, top, width, height = box
    pixels = picture[None, :, top : top + height, left : left + width].float()
    for shape in ((height, size[1]), size):
        pixels = interpolate(pixels, shape, mode="bicubic", antialias=True).round_().clamp_(0, 255)
    return pixels[0]


def as_tensor(data: bytes) -> Tensor:
    """A copy of ``data``, (bytes,) uint8."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
