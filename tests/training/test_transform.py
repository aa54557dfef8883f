"""Training pixels against open_clip's own transform."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from common.images import ImageError
from training.transform import TrainTransform, crop_box, normalise


def picture(width: int, height: int, mode: str = "RGB", form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(90, 60), (31, 47), (300, 20), (224, 224)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_same_crop_gives_open_clips_pixels(monkeypatch, width, height, mode):
    data, size = picture(width, height, mode), (48, 32)
    left, top, crop_width, crop_height = crop_box(width, height, random.Random(9 << 64 | 5))
    monkeypatch.setattr(RandomResizedCrop, "get_params", lambda *_: (top, left, crop_height, crop_width))
    # open_clip's loader decodes to RGB before it transforms.
    expected = image_transform(size, is_train=True)(Image.open(io.BytesIO(data)).convert("RGB"))
    image = TrainTransform(size, seed=9)(data, place=5)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 48, 32)
    mean, std = torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1), torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)
    assert torch.equal(normalise(image[None], mean, std)[0], expected)


@pytest.mark.parametrize(("width", "height"), [(64, 48), (40, 50), (400, 100), (100, 400), (3, 3)])
def test_crops_are_distributed_as_torchvisions(width, height):
    generator = random.Random(0)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    mine, theirs = [], []
    for _ in range(4000):
        left, top, crop_width, crop_height = crop_box(width, height, generator)
        mine.append((top, left, crop_height, crop_width))
        theirs.append(RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3]))
    ours, reference = np.array(mine, float), np.array(theirs, float)
    spread = reference.std(0) + 1e-9
    assert (np.abs(ours.mean(0) - reference.mean(0)) < 5 * spread * (2 / 4000) ** 0.5 + 1e-9).all()
    assert np.allclose(ours.std(0), reference.std(0), rtol=0.1, atol=1e-9)
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()


def test_crop_depends_on_place_and_seed_only():
    data = picture(200, 150)
    transform = TrainTransform((32, 32), seed=1)
    first = transform(data, 7)
    random.seed(123)
    torch.manual_seed(123)
    assert torch.equal(TrainTransform((32, 32), seed=1)(data, 7), first)
    assert not torch.equal(transform(data, 8), first)
    assert not torch.equal(TrainTransform((32, 32), seed=2)(data, 7), first)


@pytest.mark.parametrize(
    ("data", "cause"),
    [(b"", "broken_image"), (picture(64, 64, form="JPEG")[:900], "broken_image"), (picture(65, 64), "image_too_large")],
)
def test_unusable_images_say_why(data, cause):
    with pytest.raises(ImageError) as caught:
        TrainTransform((8, 8), seed=0, max_pixels=64 * 64)(data, 0)
    assert caught.value.cause == cause
