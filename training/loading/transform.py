"""Training pixels as open_clip makes them, in a form that no worker and no rank can change."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from clipsift_common.images import MAX_PIXELS, jpeg_pixels, pair_image
from training.loading.resize import Box, resize_crop

Decode = Literal["fast", "exact", "gpu"]

CROP_AREA = (0.9, 1.0)  # of the image's; open_clip's and DataComp's default
CROP_RATIO = (3 / 4, 4 / 3)  # width / height; torchvision's default, which open_clip leaves alone
_ATTEMPTS = 10


@dataclass(frozen=True)
class TrainTransform:
    """Decode, crop at random, resize: open_clip's training transform up to and including its 8-bit pixels.

    RandomResizedCrop with an area of 0.9-1.0 and bicubic antialiased resizing, RGB, no flip, no colour jitter. What
    remains (scaling to [0, 1] and normalising) is :func:`normalise`, on the device, with a quarter of the bytes to
    send. The crop is drawn from a generator that ``seed`` and the sample's place in the training sequence seed.

    ``size`` is (height, width) in pixels. ``decode``: ``exact`` makes open_clip's pixels to the last bit;
    ``fast`` decodes and resizes JPEGs as arrays, 2.8 times as fast, and differs by rounding: on 1,500 photographs by
    at most 2 of 255, 0.004 on average. Pictures that are no JPEGs are exact either way. What ``gpu`` leaves to the
    CPU (:mod:`training.loading.encoded`) is decoded as by ``fast``.
    """

    size: tuple[int, int]
    seed: int
    max_pixels: int = MAX_PIXELS
    decode: Decode = "fast"

    def generator(self, place: int) -> random.Random:
        """Draws the crop of the sample at ``place``."""
        return random.Random((self.seed << 64) | place)

    def __call__(self, data: bytes, place: int, out: np.ndarray, remarks: list[str] | None = None) -> None:
        """Write the pixels into ``out``, (height, width, 3) uint8 RGB, contiguous; ``remarks`` as for `pair_image`.

        Raises:
            ImageError: for data that is no usable image; ``out`` is as it was.
        """
        generator = self.generator(place)
        pixels = None if self.decode == "exact" else jpeg_pixels(data, self.max_pixels)
        # Cropped first and resized then: resizing a box of the whole would let pixels outside of it shine in.
        if pixels is not None:
            resize_crop(pixels, crop_box(pixels.shape[1], pixels.shape[0], generator), out)
            return
        image = pair_image(data, self.max_pixels, remarks)
        left, top, width, height = crop_box(image.width, image.height, generator)
        cropped = image.crop((left, top, left + width, top + height))
        out[:] = np.asarray(cropped.resize((self.size[1], self.size[0]), Image.Resampling.BICUBIC))


def crop_box(width: int, height: int, generator: random.Random) -> Box:
    """A random crop ``(left, top, width, height)`` of an image, distributed as torchvision's RandomResizedCrop.

    Area uniform in :data:`CROP_AREA`, logarithm of the ratio uniform in :data:`CROP_RATIO`, place uniform. If ten draws
    do not fit the image, the largest centred crop whose ratio is allowed.
    """
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(*CROP_AREA)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(generator.random() * (height - crop_height + 1))
            left = int(generator.random() * (width - crop_width + 1))
            return left, top, crop_width, crop_height
    crop_width, crop_height = width, height
    if width < CROP_RATIO[0] * height:
        crop_height = round(width / CROP_RATIO[0])
    elif width > CROP_RATIO[1] * height:
        crop_width = round(height * CROP_RATIO[1])
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def normalise(image: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(b, 3, h, w) uint8 to float32 ``(image / 255 - mean) / std``; ``mean`` and ``std`` are (3, 1, 1), in [0, 1]."""
    planes = image.to(torch.float32, memory_format=torch.contiguous_format)  # batches come pixel by pixel
    return planes.div_(255).sub_(mean).div_(std)
