"""Training pixels against open_clip's own transform."""

from __future__ import annotations

import io
import random
import tarfile

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from clipsift_common.images import ImageError, decode_image, jpeg_pixels, pair_image
from helpers.pictures import picture
from training.loading.transform import TrainTransform, crop_box, normalise


def transformed(transform: TrainTransform, data: bytes, place: int) -> torch.Tensor:
    pixels = np.zeros((*transform.size, 3), np.uint8)
    transform(data, place, pixels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(90, 60), (31, 47), (300, 20), (224, 224)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_same_crop_gives_open_clips_pixels(monkeypatch, width, height, mode):
    data, size = picture(0, (width, height), "PNG", mode), (48, 32)
    left, top, crop_width, crop_height = crop_box(width, height, random.Random(9 << 64 | 5))
    monkeypatch.setattr(RandomResizedCrop, "get_params", lambda *_: (top, left, crop_height, crop_width))
    # open_clip's loader decodes to RGB before it transforms.
    expected = image_transform(size, is_train=True)(Image.open(io.BytesIO(data)).convert("RGB"))
    image = transformed(TrainTransform(size, seed=9), data, 5)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 48, 32)
    mean, std = torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1), torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)
    assert torch.equal(normalise(image[None], mean, std)[0], expected)


def difference(data: bytes, size: tuple[int, int], place: int = 0) -> torch.Tensor:
    fast, exact = (
        transformed(TrainTransform(size, seed=0, decode=decode), data, place) for decode in ("fast", "exact")
    )
    return (fast.int() - exact.int()).abs()


@pytest.mark.parametrize(
    "data",
    [
        picture(0, (400, 300)),
        picture(0, (90, 200), progressive=True, quality=30),
        picture(0, (333, 251), subsampling=0),
        picture(0, (120, 90), mode="L"),
        picture(0, (20, 31)),  # enlarged
    ],
)
def test_fast_pixels_differ_by_rounding_only(data):
    by_pil = np.array(decode_image(data))
    assert np.array_equal(jpeg_pixels(data), by_pil)
    assert np.array_equal(np.array(pair_image(data)), by_pil)
    apart = torch.stack([difference(data, (96, 64), place) for place in range(4)])
    assert apart.max() <= 2
    assert apart.float().mean() < 0.05


def test_fast_pixels_of_photographs(shared_data):
    # Over all 1,500 of these: at most 2 of 255, 0.0036 on average; 0.4 % of the values differ at all.
    with tarfile.open(shared_data / "photos" / "shards" / "00000002.tar") as tar:
        photos = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")][::10]
    apart = torch.stack([difference(photo, (224, 224), place) for place, photo in enumerate(photos)])
    assert apart.max() <= 2
    assert apart.float().mean() < 0.01


@pytest.mark.parametrize(
    "data",
    [
        picture(0, (60, 40), mode="CMYK"),
        picture(0, (60, 40), "WEBP"),
        picture(0, (60, 40), "PNG", "I;16"),
        picture(0, (60, 40), "PNG", "LA"),
    ],
)
def test_what_is_no_plain_jpeg_is_exact(data):
    assert difference(data, (32, 32)).max() == 0


def test_the_orientation_tag_is_not_applied():
    tag = Image.Exif()
    tag[0x0112] = 6  # lies on its side
    for decode in ("fast", "exact"):
        transform = TrainTransform((16, 16), seed=0, decode=decode)
        assert torch.equal(
            transformed(transform, picture(0, (60, 40), exif=tag), 0), transformed(transform, picture(0, (60, 40)), 0)
        )


def test_damage_is_judged_alike():
    """Cut anywhere, or with a bit turned: both ways say the same, and the same of what is left."""
    whole, dice = picture(0, (48, 32)), random.Random(0)
    cases = [whole[:length] for length in range(0, len(whole), 7)] + [whole + b"more", whole[:-2] + b"zz"]
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        cases.append(bytes(flipped))
    verdicts = set()
    for data in cases:
        seen = []
        for decode in ("fast", "exact"):
            try:
                seen.append(transformed(TrainTransform((24, 24), 0, decode=decode), data, 0).int())
            except ImageError as error:
                seen.append(error.cause)
        fast, exact = seen
        same = fast == exact if isinstance(fast, str) or isinstance(exact, str) else (fast - exact).abs().max() <= 2
        assert same, data.hex()
        verdicts.add(fast if isinstance(fast, str) else "usable")
    assert verdicts == {"broken_image", "truncated_image", "usable"}


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
    data = picture(0, (200, 150), "PNG")
    transform = TrainTransform((32, 32), seed=1)
    first = transformed(transform, data, 7)
    random.seed(123)
    torch.manual_seed(123)
    assert torch.equal(transformed(TrainTransform((32, 32), seed=1), data, 7), first)
    assert not torch.equal(transformed(transform, data, 8), first)
    assert not torch.equal(transformed(TrainTransform((32, 32), seed=2), data, 7), first)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "broken_image"),
        (picture(0, (64, 64))[:900], "truncated_image"),
        (picture(0, (65, 64), "PNG"), "image_too_large"),
        (picture(0, (65, 64))[:900], "image_too_large"),  # told from the header
    ],
)
@pytest.mark.parametrize("decode", ["fast", "exact"])
def test_unusable_images_say_why(data, cause, decode):
    with pytest.raises(ImageError) as caught:
        transformed(TrainTransform((8, 8), seed=0, max_pixels=64 * 64, decode=decode), data, 0)
    assert caught.value.cause == cause
