"""Encoded pictures, random or of one colour."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(
    seed: int, size: tuple[int, int] = (40, 36), format: str = "JPEG", mode: str = "RGB", **options: Any
) -> bytes:
    """A random picture of (width, height), smooth as photographs are; ``options`` are the encoder's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels).resize(size).convert(mode), format, **options)


def plain_picture(colour: tuple[int, int, int], format: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """4 x 4 pixels of one colour."""
    return encode(Image.new("RGB", (4, 4), colour).convert(mode), format, **options)
