"""Pictures that end early, and those that a decoder only remarks on."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from clipsift_common.images import ImageError, decode_image, jpeg_pixels, pair_image
from helpers.pictures import picture

END = b"\xff\xd9"
KINDS = {
    "baseline": picture(0, (80, 72)),
    "progressive": picture(0, (80, 72), progressive=True),
    "restarts": picture(0, (80, 72), restart_marker_blocks=4),
    "grey": picture(0, (80, 72), mode="L"),
    "cmyk": picture(0, (80, 72), mode="CMYK"),
    "thumbnail": picture(0, (8, 8)),
}


def start_of_scan(data: bytes) -> int:
    """Where the coded data of a JPEG begin: behind the header of its first scan."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.55, 0.9])
@pytest.mark.parametrize("end", [END, END + END, END + b"\0" * 300, b""])
def test_a_jpeg_that_ends_early_is_none(kind: str, share: float, end: bytes) -> None:
    data = KINDS[kind]
    start = start_of_scan(data)
    cut = data[: start + int(share * (len(data) - 2 - start))] + end
    assert jpeg_pixels(cut) is None
    with pytest.raises(ImageError) as caught:
        pair_image(cut)
    assert caught.value.cause == "truncated_image"


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_other_formats_what_the_decoder_calls_truncated_is(format: str) -> None:
    data = picture(0, (80, 72), format)
    with pytest.raises(ImageError) as caught:
        pair_image(data[: len(data) // 2])
    assert caught.value.cause in ("truncated_image", "broken_image")


@pytest.mark.parametrize("kind", KINDS)
def test_whole_pictures_are_pils_without_a_remark(kind: str) -> None:
    remarks: list[str] = []
    pixels = np.array(pair_image(KINDS[kind], remarks=remarks))
    assert np.array_equal(pixels, np.array(Image.open(io.BytesIO(KINDS[kind])).convert("RGB")))
    assert not remarks


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts", "grey", "cmyk"])
@pytest.mark.parametrize("junk", [b"\1\2\3\4" * 10, bytes(40)])
def test_bytes_that_belong_to_nothing_are_remarked_on_and_kept(kind: str, junk: bytes) -> None:
    data, remarks = KINDS[kind][:-2] + junk + END, list[str]()
    assert np.array_equal(np.array(pair_image(data, remarks=remarks)), np.array(decode_image(KINDS[kind])))
    assert len(remarks) == 1
    assert "extraneous bytes before marker 0xd9" in remarks[0]


def test_what_is_too_large_is_not_decoded_for_a_remark() -> None:
    with pytest.raises(ImageError) as caught:
        pair_image(KINDS["baseline"][:-200] + END, max_pixels=80 * 72 - 1)
    assert caught.value.cause == "image_too_large"
