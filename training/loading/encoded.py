"""Batches whose JPEGs the workers leave as they are: the main process has them decoded on the GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from clipsift_common.errors import ClipsiftError
from clipsift_common.towers.text import TextLengths
from training.loading.gpu_decode import as_tensor, decode_jpegs, jpeg_size, resized
from training.loading.loader import Batch, Lost, StepDataset
from training.loading.resize import Box
from training.loading.transform import crop_box

_ON_CPU = "no whole colour JPEG: decoded on the CPU"
_REFUSED = "refused by the GPU: decoded on the CPU"


@dataclass
class Picture:
    """One sample's: its JPEG and the box to crop from it, or pixels (h, w, 3) that the worker has made."""

    place: int = -1
    row: int = -1
    jpeg: bytes | None = None
    box: Box = (0, 0, 0, 0)
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class Encoded:
    """A batch's pictures on their way: the bytes of all JPEGs in one tensor, all pixels in another."""

    pictures: list[Picture]  # without their bytes and pixels
    jpegs: Tensor  # (bytes,) uint8
    sizes: list[int]  # bytes of each picture's JPEG; 0 where there are pixels instead
    pixels: Tensor  # (k, h, w, 3) uint8, of those

    @classmethod
    def of(cls, pictures: list[Picture], size: tuple[int, int]) -> Encoded:
        """``pictures`` packed: what a worker sends, in two pieces of shared memory."""
        jpegs = as_tensor(b"".join(picture.jpeg or b"" for picture in pictures))
        made = [picture.pixels for picture in pictures if picture.pixels is not None]
        pixels = torch.from_numpy(np.stack(made)) if made else torch.empty(0, *size, 3, dtype=torch.uint8)
        rest = [Picture(picture.place, picture.row, None, picture.box) for picture in pictures]
        return cls(rest, jpegs, [len(picture.jpeg or b"") for picture in pictures], pixels)


class EncodedDataset(StepDataset):
    """:class:`StepDataset` whose ``image`` is :class:`Encoded`, and :meth:`send`, which makes the batch of it.

    Samples, order and crops are those of the other ways to decode. What is no colour JPEG, or has no mark at its end,
    is decoded by the worker as ``fast`` does; what the GPU refuses, by the main process. Both are remarked on.
    """

    uses_slots = False

    def __getitem__(self, step: int) -> tuple[Batch, list[Lost]]:
        batch, lost = super().__getitem__(step)
        if "image" in batch:
            batch["image"] = Encoded.of(batch["image"], self.transform.size)
        return batch, lost

    def _room(self) -> tuple[Any, Any]:
        pictures = [Picture() for _ in range(self.share.stop - self.share.start)]
        return pictures, pictures

    def _decode(self, place: int, row: int, pixels: Any, lost: list[Lost], remarks: list[Lost]) -> tuple[int, str]:
        used, caption = super()._decode(place, row, pixels, lost, remarks)
        if isinstance(pixels, Picture):
            pixels.place, pixels.row = place, used
        return used, caption

    def _write(self, data: bytes, place: int, out: Any, said: list[str]) -> None:
        transform = self.transform
        if not isinstance(out, Picture):
            super()._write(data, place, out, said)
            said.append(_REFUSED)
        elif shape := jpeg_size(data, transform.max_pixels):
            out.jpeg, out.box = data, crop_box(*shape, transform.generator(place))
        else:
            pixels = np.empty((*transform.size, 3), np.uint8)
            super()._write(data, place, pixels, said)
            out.pixels = pixels
            said.append(_ON_CPU)

    def send(self, fetched: tuple[Batch, list[Lost]], device: torch.device) -> tuple[Batch, list[Lost]]:
        """The batch on ``device``, its pictures (b, 3, h, w) uint8 there; more may be lost on the way."""
        batch, lost = fetched
        encoded = batch.pop("image", None)
        try:
            image = None if encoded is None else self._decoded(encoded, batch, lost, device)
        except ClipsiftError as error:
            return {"error": str(error)}, lost
        moved = move_data_to_device(batch, device)
        return moved if image is None else moved | {"image": image}, lost

    def _decoded(self, encoded: Encoded, batch: Batch, lost: list[Lost], device: torch.device) -> Tensor:
        """The pictures; in ``batch``, still on the CPU, what belongs to those that had to be replaced is changed."""
        size = self.transform.size
        image = torch.empty(len(encoded.sizes), 3, *size, dtype=torch.uint8, device=device)
        parts = zip(encoded.pictures, encoded.jpegs.split(encoded.sizes))
        waiting = [(number, picture, part) for number, (picture, part) in enumerate(parts) if len(part)]
        by_cpu = dict(zip((number for number, size in enumerate(encoded.sizes) if not size), encoded.pixels))
        found = decode_jpegs([part for _, _, part in waiting], device)
        for (number, picture, _), pixels in zip(waiting, found):
            if pixels is None:
                by_cpu[number] = self._mended(number, picture, batch, lost)
            else:
                image[number] = resized(pixels, picture.box, size)
        for number, made in by_cpu.items():
            image[number] = made.permute(2, 0, 1).contiguous().pin_memory().to(device, non_blocking=True)
        return image

    def _mended(self, number: int, picture: Picture, batch: Batch, lost: list[Lost]) -> Tensor:
        """(h, w, 3) of a picture that the GPU refuses: decoded here, or another sample's if it is damaged."""
        pixels, remarks = np.empty((*self.transform.size, 3), np.uint8), batch.setdefault("remarks", [])
        row, caption = self._decode(picture.place, picture.row, pixels, lost, remarks)
        if row != picture.row:
            text = self.tokenizer([caption])
            batch["text"][number] = text[0]
            batch["text_lengths"].values[number] = TextLengths.of(text).values[0]
            batch["uid"][number] = self._uids([row])[0]
        return torch.from_numpy(pixels)
