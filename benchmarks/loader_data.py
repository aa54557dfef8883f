"""Shards for the loader's benchmark: made up when none are given."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tars import write_tar

MADE_PICTURES = 1_000
SHARD_SIZE = 500


def make_shards(folder: Path) -> Path:
    """Pictures of 400 x 533 with detail at every scale, about 30 kB each as JPEG."""
    return write_shards(folder, MADE_PICTURES, made_up_picture)


def made_up_picture(number: int) -> bytes:
    generator = np.random.default_rng(number)
    pixels = np.zeros((533, 400, 3), np.float32)
    for octave in range(1, 8):
        size = 2**octave
        noise = generator.integers(0, 256, (size * 4 // 3, size, 3), dtype=np.uint8)
        pixels += np.asarray(Image.fromarray(noise).resize((400, 533), Image.Resampling.BICUBIC), np.float32) / size
    scaled = (pixels - pixels.min()) / np.ptp(pixels) * 255
    buffer = io.BytesIO()
    Image.fromarray(scaled.astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_shards(folder: Path, count: int, picture: Callable[[int], bytes], shard_size: int = SHARD_SIZE) -> Path:
    """``count`` samples as img2dataset lays them out: ``picture(number)`` is their image."""
    folder.mkdir(parents=True)
    for shard in range(-(-count // shard_size)):
        numbers = range(shard * shard_size, min((shard + 1) * shard_size, count))
        samples = ((f"{number:012d}", _parts(number, picture(number))) for number in numbers)
        write_tar(folder / f"{shard:08d}.tar", samples)
    return folder


def _parts(number: int, picture: bytes) -> dict[str, bytes]:
    caption, key = f"a picture that nobody took, number {number} of many", f"{number:012d}"
    about = {
        "uid": f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}",
        "caption": caption,
        "url": f"https://images.example.com/some/longer/path/{key}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 400,
        "height": 533,
        "original_width": 800,
        "original_height": 1066,
        "exif": "{}",
        "sha256": "0" * 64,
    }
    return {"jpg": picture, "json": json.dumps(about).encode(), "txt": caption.encode()}
