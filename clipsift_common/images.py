"""Bytes from the web to an RGB image: known formats only, bounded in size, never trusted."""

from __future__ import annotations

import io
import threading
import warnings

import numpy as np
import simplejpeg
from PIL import Image

# webdataset's names for what may be an image. A sample with several of them is read as the references read it:
IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp")  # open_clip's order, for what is selected from and trained on
EVALUATION_IMAGE_EXTENSIONS = ("webp", "png", "jpg", "jpeg")  # clip_benchmark's order, for evaluation tasks
MAX_PIXELS = 64_000_000  # 8,000 x 8,000: a larger picture is a decompression bomb until proven otherwise

# Raised when other pixels come out of the same bytes, or other pictures are refused: what was made of pictures before
# is stale. 2: those that end early are refused.
DECODING = 2
DECODER_REMARK = "decoder_remark"  # the word to count what a decoder remarks of pictures that are used
_JPEG_START = b"\xff\xd8"
_JPEG_SPACES = ("YCbCr", "Gray", "RGB")
_FORMATS = ("JPEG", "PNG", "WEBP")
_ENDS_EARLY = "premature end"  # in libjpeg's words


class ImageError(ValueError):
    """An image that will not be used; ``cause`` is the word to count it under."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode ``data`` fully, in the picture's own mode.

    Raises :class:`ImageError`: ``image_too_large`` when width x height is above ``max_pixels``, before anything is
    decoded, ``broken_image`` when it is in no known format or truncated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on odd metadata; its bomb warning is our error below
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > max_pixels:
                raise ImageError("image_too_large", f"{image.width} x {image.height} > {max_pixels} pixels")
            image.load()
            return image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("image_too_large", str(error)) from error
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error ... on damaged files
        raise ImageError("broken_image", f"{type(error).__name__}: {error}") from error


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Like :func:`open_image`, converted to RGB."""
    image = open_image(data, max_pixels)
    return image if image.mode == "RGB" else image.convert("RGB")


def pair_image(data: bytes, max_pixels: int = MAX_PIXELS, remarks: list[str] | None = None) -> Image.Image:
    """The RGB picture of a pair: :func:`decode_image`'s pixels, but of no picture that ends early.

    Where a JPEG's data end early and an end mark follows, libjpeg makes the rest grey, and PIL says nothing of it.

    Args:
        remarks: gets what libjpeg remarks of a JPEG that can be used all the same, such as bytes of no meaning.

    Raises :class:`ImageError`: as :func:`open_image`, and ``truncated_image``, whatever the format.
    """
    if (pixels := jpeg_pixels(data, max_pixels)) is not None:
        return Image.fromarray(pixels)
    try:
        image = decode_image(data, max_pixels)
    except ImageError as error:
        raise ImageError("truncated_image", error.detail) if "truncated" in error.detail.lower() else error from error
    remark = _jpeg_remark(data)
    if _ENDS_EARLY in remark.lower():
        raise ImageError("truncated_image", remark)
    if remark and remarks is not None:
        remarks.append(remark)
    return image


def _jpeg_remark(data: bytes) -> str:
    """The first thing that libjpeg remarks while it decodes a JPEG; empty for what is sound, or no JPEG."""
    if data[:2] != _JPEG_START:
        return ""
    try:
        simplejpeg.decode_jpeg(data, min_height=1, min_width=1, min_factor=8)  # an eighth: the data are all that counts
    except ValueError as error:
        return str(error)
    return ""


def jpeg_pixels(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray | None:
    """The pixels of a JPEG straight into an array, without PIL.

    Equal to :func:`decode_image` (both decode with libjpeg-turbo; neither applies the EXIF orientation), in half its
    time, and only for what libjpeg has nothing to remark of.

    Returns:
        (height, width, 3) uint8 RGB, contiguous, good until this thread decodes the next one; or None when PIL has to
        look at it: another format, a colour space other than grey or RGB, more than ``max_pixels``, or damage of any
        kind, about which :func:`pair_image` judges.
    """
    if data[:2] != _JPEG_START:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in _JPEG_SPACES or width * height > max_pixels:
            return None
        fits = 3 * width * height <= len(_scratch.bytes)
        return simplejpeg.decode_jpeg(data, buffer=_scratch.bytes if fits else None)
    except ValueError:
        return None


class _Scratch(threading.local):
    """Memory to decode into, which stays in the processor's cache."""

    def __init__(self) -> None:
        self.bytes = np.empty(3 * 4_000_000, np.uint8)  # 4 megapixels; what is not written to takes no room


_scratch = _Scratch()
