"""Bytes from the web to an RGB image: known formats only, bounded in size, never trusted."""

from __future__ import annotations

import io
import warnings
from typing import Any, cast

import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

# webdataset's names for what may be an image, in the order in which a training sample prefers them (open_clip's).
IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp")
MAX_PIXELS = 64_000_000  # 8,000 x 8,000: a larger picture is a decompression bomb until proven otherwise

_FORMATS = ("JPEG", "PNG", "WEBP")


class ImageError(ValueError):
    """An image that will not be used; ``cause`` is the word to count it under."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


def peek_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read the header of ``data`` only: size, mode and format, nothing decoded.

    Raises :class:`ImageError` with cause ``image_too_large`` when width x height is above ``max_pixels``, and
    ``broken_image`` when it is in no known format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on odd metadata; its bomb warning is our error below
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", str(error)) from error
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error ... on damaged files
        raise _broken(error) from error
    if image.width * image.height > max_pixels:
        raise ImageError("image_too_large", f"{image.width} x {image.height} > {max_pixels} pixels")
    return image


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``data`` fully, in the picture's own mode.

    Raises :class:`ImageError` as :func:`peek_image` does (before anything is decoded), and ``broken_image`` when it is
    truncated.
    """
    return _load(peek_image(data, max_pixels))


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode what :func:`peek_image` found, as RGB; raises as :func:`open_image` does."""
    image = _load(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def jpeg_pixels(image: Image.Image, data: bytes) -> torch.Tensor | None:
    """The pixels of a JPEG whose header is ``image``, straight into a tensor, without PIL.

    Equal to :func:`to_rgb` (both decode with libjpeg-turbo; neither applies the EXIF orientation), only faster.

    Returns:
        (3, height, width) uint8 RGB, or None when PIL has to look at it: another format, a colour space other than
        grey or RGB, or damage, about which PIL's judgement counts.
    """
    if image.format != "JPEG" or image.mode not in ("RGB", "L"):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remark that bytes are read-only; they are only read
            encoded = torch.frombuffer(data, dtype=torch.uint8)
        return cast(Any, decode_jpeg(encoded, mode=ImageReadMode.RGB))
    except RuntimeError:
        return None


def _load(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except Exception as error:  # see peek_image
        raise _broken(error) from error
    return image


def _broken(error: Exception) -> ImageError:
    return ImageError("broken_image", f"{type(error).__name__}: {error}")


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Like :func:`open_image`, converted to RGB."""
    return to_rgb(peek_image(data, max_pixels))
