"""Damaged pictures: pixels, or a loss of a known cause; never another exception, never without bounds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsift_common.images import ImageError, pair_image
from helpers.mutations import NUM_WAYS, mutate, strangers
from helpers.pictures import picture
from training.loading.transform import TrainTransform

pytestmark = pytest.mark.slow

CAUSES = {"broken_image", "truncated_image", "image_too_large"}
FORMATS = {
    "JPEG": picture(1, (80, 72)),
    "progressive": picture(2, (80, 72), progressive=True),
    "grey": picture(3, (80, 72), mode="L"),
    "CMYK": picture(4, (80, 72), mode="CMYK"),
    "PNG": picture(5, (80, 72), format="PNG"),
    "palette": picture(6, (80, 72), format="PNG", mode="P"),
    "WEBP": picture(7, (80, 72), format="WEBP"),
}


def _decoded(data: bytes, how: str) -> np.ndarray | str:
    """The pixels, or the cause of the loss."""
    out = np.zeros((32, 32, 3), np.uint8)
    try:
        if how == "whole":
            return np.asarray(pair_image(data))
        TrainTransform((32, 32), 0, decode=how)(data, 0, out)
        return out
    except ImageError as error:
        return error.cause


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("format", list(FORMATS))
def test_pictures(format: str, seed: int) -> None:
    """A picture has no checksum (a PNG has): one that still decodes is taken. Every way of decoding takes the same."""
    whole = FORMATS[format]
    mutation = mutate(whole, seed, block=16)
    found = {how: _decoded(mutation.data, how) for how in ("whole", "exact", "fast")}
    assert CAUSES.issuperset(pixels for pixels in found.values() if isinstance(pixels, str))
    kinds = {how: isinstance(pixels, str) for how, pixels in found.items()}
    assert len(set(kinds.values())) == 1, f"{mutation.what}: {kinds}"
    if format in ("PNG", "palette") and not kinds["whole"]:
        assert np.array_equal(found["whole"], np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))), mutation.what
    if mutation.what.startswith("cut") and len(mutation.data) < 0.95 * len(whole):
        assert kinds["whole"], mutation.what


@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_a_picture(mark: Path, stranger: str) -> None:
    for how in ("whole", "exact", "fast"):
        assert _decoded(strangers(mark)[stranger], how) == "broken_image"


@pytest.mark.parametrize("size", [(65535, 65535), (30000, 30000), (65535, 1000)])
def test_sizes_that_are_a_lie(size: tuple[int, int]) -> None:
    """A JPEG's header says how much is to be made room for."""
    data = bytearray(FORMATS["JPEG"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = size[1].to_bytes(2, "big") + size[0].to_bytes(2, "big")
    for how in ("whole", "exact", "fast"):
        assert _decoded(bytes(data), how) == "image_too_large"
