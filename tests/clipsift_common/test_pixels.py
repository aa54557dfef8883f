from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipsift_common.batches.pixels import Preprocess

CONFIGS = [
    PreprocessCfg(size=32),
    PreprocessCfg(size=(40, 24), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear"),
    PreprocessCfg(size=48, resize_mode="squash"),
    PreprocessCfg(size=48, resize_mode="longest", fill_color=127),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_the_halves_make_what_the_whole_makes(config: PreprocessCfg, mode: str) -> None:
    rng = np.random.default_rng(0)
    whole = image_transform_v2(config, is_train=False)
    halves = Preprocess(whole)
    shapes = ((50, 70), (33, 31), (120, 40))
    images = [Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).convert(mode) for shape in shapes]
    pixels = torch.stack([halves.worker(image) for image in images])
    assert pixels.dtype == torch.uint8
    assert torch.equal(halves.device(pixels), torch.stack([whole(image) for image in images]))
    assert pixels.dtype == torch.uint8


def test_another_transform_is_left_whole() -> None:
    halves = Preprocess(lambda image: torch.full((3, 2, 2), float(image.width)))
    batch = halves.worker(Image.new("RGB", (7, 5))).unsqueeze(0)
    assert halves.device(batch) is batch
    assert batch[0, 0, 0, 0] == 7
