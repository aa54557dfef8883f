"""The compiled resize is torch's, to the last bit, and touches nothing but what it is given."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import training.loading.resize
from training.loading.resize import KERNEL, resize_crop, resize_with_torch

compiled = pytest.mark.skipif(not KERNEL, reason="no compiled kernel for this CPU")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """The hardest pixels: black and white ones overshoot most."""
    return np.random.default_rng(seed).choice(np.array([0, 255, 128, 7], np.uint8), (height, width, 3))


def both(pixels: np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    mine, theirs = np.zeros((2, *size, 3), np.uint8)
    resize_crop(pixels, box, mine)
    resize_with_torch(pixels, box, theirs)
    return mine, theirs


@compiled
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (7, 90), (64, 1), (1, 5), (96, 128)])
def test_equals_torch(size):
    dice = np.random.default_rng(sum(size))
    for case in range(60):
        height, width = dice.integers(1, (700, 50, 6)[case % 3], 2)
        box_width, box_height = int(dice.integers(1, width + 1)), int(dice.integers(1, height + 1))
        at_end = case % 4 == 0  # the last bytes of the array are the box's
        left = int(width - box_width if at_end else dice.integers(0, width - box_width + 1))
        top = int(height - box_height if at_end else dice.integers(0, height - box_height + 1))
        mine, theirs = both(noise(height, width, case), (left, top, box_width, box_height), size)
        assert np.array_equal(mine, theirs), (height, width, left, top, box_width, box_height)


@compiled
@pytest.mark.parametrize(("height", "width"), [(3, 6000), (6000, 3), (1, 1), (2500, 1900)])
def test_equals_torch_at_extremes(height, width):
    mine, theirs = both(noise(height, width), (0, 0, width, height), (48, 40))
    assert np.array_equal(mine, theirs)


@compiled
def test_pixels_outside_of_the_box_have_no_influence():
    pixels, box = noise(60, 80), (10, 20, 33, 21)
    mine, _ = both(pixels, box, (16, 16))
    pixels[:20], pixels[41:], pixels[:, :10], pixels[:, 43:] = 255, 0, 255, 0
    assert np.array_equal(both(pixels, box, (16, 16))[0], mine)


@compiled
def test_writes_the_result_only():
    pixels, around = noise(90, 70), np.full((5, 31, 33, 3), 77, np.uint8)
    resize_crop(pixels, (0, 0, 70, 90), around[2])
    assert (around[[0, 1, 3, 4]] == 77).all()
    assert (around[2] != 77).any()


@compiled
@pytest.mark.parametrize(
    ("pixels", "box", "out", "message"),
    [
        (noise(8, 8), (1, 0, 8, 8), (4, 4, 3), "outside"),
        (noise(8, 8), (0, -1, 8, 8), (4, 4, 3), "outside"),
        (noise(8, 8), (0, 0, 0, 8), (4, 4, 3), "outside"),
        (noise(8, 8), (2**62, 0, 2**62, 8), (4, 4, 3), "outside"),
        (noise(8, 8)[:, :, :2].copy(), (0, 0, 8, 8), (4, 4, 3), "must be"),
        (noise(8, 8).astype(np.int16), (0, 0, 8, 8), (4, 4, 3), "must be"),
        (noise(8, 8), (0, 0, 8, 8), (4, 0, 3), "must be"),
        (noise(8, 8), (0, 0, 8, 8), (4, 4), "must be"),
        (noise(8, 8)[::2], (0, 0, 8, 4), (4, 4, 3), "contiguous"),
    ],
)
def test_refuses_what_would_be_read_or_written_outside(pixels, box, out, message):
    with pytest.raises(ValueError, match=message):
        resize_crop(pixels, box, np.zeros(out, np.uint8))


@compiled
def test_refuses_memory_that_is_read_only():
    out = np.zeros((4, 4, 3), np.uint8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        resize_crop(noise(8, 8), (0, 0, 8, 8), out)


def test_rounds_where_pillow_does_not(monkeypatch):
    monkeypatch.setattr(training.loading.resize, "KERNEL", False)  # torch's pixels are the kernel's: see above
    pixels, out = noise(300, 200), np.zeros((96, 64, 3), np.uint8)
    resize_crop(pixels, (5, 6, 190, 280), out)
    image = Image.fromarray(pixels).crop((5, 6, 195, 286)).resize((64, 96), Image.Resampling.BICUBIC)
    assert np.abs(out.astype(int) - np.asarray(image)).max() <= 2


def test_the_kernel_is_there_where_it_can_be():
    """It is built on installation if it can be built, and nobody would notice a broken source."""
    flags = Path("/proc/cpuinfo")
    if not (flags.exists() and "avx512_vnni" in flags.read_text() and "avx512vbmi" in flags.read_text()):
        pytest.skip("another CPU")
    if not (shutil.which("gcc") and Path(sysconfig.get_path("include"), "Python.h").exists()):
        pytest.skip("nothing to compile with")
    assert KERNEL
