"""A CLIP's preprocessing in two halves: what a worker does to a picture, and what the device does to a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transform import MaybeToTensor
from PIL import Image
from torch import Tensor
from torchvision.transforms import Compose, Normalize, ToTensor
from torchvision.transforms.functional import pil_to_tensor


class Preprocess:
    """``preprocess`` of a CLIP, cut where pixels are still whole numbers, so that a quarter of the bytes travels.

    ``device(torch.stack([worker(image), ...]))`` has the values of ``preprocess(image)`` to the last bit. A transform
    that does not end by scaling and normalising, as open_clip's does, is left whole: all of it is the worker's.
    """

    def __init__(self, preprocess: Callable[[Image.Image], Tensor]) -> None:
        steps = list(getattr(preprocess, "transforms", []))
        self._whole = preprocess
        self._pixels: Callable[[Image.Image], Any] | None = None
        if len(steps) > 1 and isinstance(steps[-1], Normalize) and isinstance(steps[-2], ToTensor | MaybeToTensor):
            self._pixels = Compose(steps[:-2])
            self._mean, self._std = (torch.tensor(values).view(3, 1, 1) for values in (steps[-1].mean, steps[-1].std))

    def worker(self, image: Image.Image) -> Tensor:
        """(3, h, w): uint8 pixels, or what the whole transform makes."""
        return self._whole(image) if self._pixels is None else pil_to_tensor(self._pixels(image))

    def device(self, batch: Tensor) -> Tensor:
        """(b, 3, h, w) as the model takes it, where ``batch`` is."""
        if self._pixels is None or batch.dtype != torch.uint8:
            return batch
        mean, std = self._mean.to(batch.device, non_blocking=True), self._std.to(batch.device, non_blocking=True)
        return batch.to(torch.float32).div_(255).sub_(mean).div_(std)
