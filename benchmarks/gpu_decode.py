"""How far ``data.decode: gpu`` is from open_clip's pixels: ``python benchmarks/gpu_decode.py [--images SHARDS]``.

On a GPU its own decoder is judged; without one torchvision's on the CPU stands in for it, and what is measured is the
resize, which is the same code. Beside it ``fast``, by the same crops. In steps of a pixel's 255.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.loader_data import made_up_picture
from benchmarks.measure import describe_machine
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from training.loading.gpu_decode import as_tensor, decode_jpegs, jpeg_size, resized
from training.loading.transform import TrainTransform, crop_box

SIZE = (224, 224)
AT_ONCE = 128  # JPEGs


@dataclass(frozen=True)
class Distance:
    """Of all values of all pictures: the largest and the mean difference, the share that differs at all."""

    largest: int
    mean: float
    share: float

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray) -> Distance:
        """Of (n, h, w, 3) uint8 pixels."""
        difference = np.abs(one.astype(np.int16) - other)
        return cls(int(difference.max()), float(difference.mean()), float((difference > 0).mean()))

    def __str__(self) -> str:
        return f"at most {self.largest}, {self.mean:.4f} on average, {self.share:.2%} of the values"


def on_device(jpegs: Sequence[bytes], transform: TrainTransform, device: torch.device) -> tuple[np.ndarray, list[int]]:
    """(n, h, w, 3) pixels as ``decode: gpu`` makes them, and the numbers of those that the device refuses."""
    pixels, refused = np.zeros((len(jpegs), *SIZE, 3), np.uint8), []
    for start in range(0, len(jpegs), AT_ONCE):
        part = [as_tensor(data) for data in jpegs[start : start + AT_ONCE]]
        for number, picture in enumerate(decode_jpegs(part, device), start):
            if picture is None:
                refused.append(number)
                continue
            box = crop_box(picture.shape[2], picture.shape[1], transform.generator(number))
            pixels[number] = resized(picture, box, SIZE).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels, refused


def on_cpu(jpegs: Sequence[bytes], transform: TrainTransform) -> np.ndarray:
    """(n, h, w, 3) pixels as a worker makes them."""
    pixels = np.zeros((len(jpegs), *SIZE, 3), np.uint8)
    for number, data in enumerate(jpegs):
        transform(data, number, pixels[number])
    return pixels


def judge(jpegs: Sequence[bytes], device: torch.device) -> tuple[dict[str, Distance], int]:
    """The distance of each way to decode from open_clip's pixels, and how many JPEGs the device refuses."""
    exact = on_cpu(jpegs, TrainTransform(SIZE, 0, decode="exact"))
    fast = on_cpu(jpegs, TrainTransform(SIZE, 0))
    found, refused = on_device(jpegs, TrainTransform(SIZE, 0, decode="gpu"), device)
    there = np.setdiff1d(np.arange(len(jpegs)), refused)
    return {"gpu": Distance.of(found[there], exact[there]), "fast": Distance.of(fast, exact)}, len(refused)


def from_shards(folder: str, limit: int) -> list[bytes]:
    """The JPEGs of a pool that are for the device."""
    with tempfile.TemporaryDirectory() as cache:
        index = PoolIndex.build(Pool(folder), cache, 0)
        found = (index.read(row).image for row in range(min(limit, len(index))))
        return [data for data in found if jpeg_size(data, 64_000_000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", help="folder of shards; without it 200 pictures are made up")
    parser.add_argument("--limit", type=int, default=1500)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    jpegs = (
        from_shards(options.images, options.limit)
        if options.images
        else [made_up_picture(number) for number in range(200)]
    )
    print(describe_machine())
    distances, refused = judge(jpegs, device)
    print(f"{len(jpegs):,} JPEGs, decoded on {device}; {refused} refused")
    for name, distance in distances.items():
        print(f"decode: {name:5} {distance}")


if __name__ == "__main__":
    main()
