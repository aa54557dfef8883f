"""Tasks and a model so small that every score can be told by hand: images are plain colours, classes their names."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipsift_common.clip import LoadedCLIP
from evaluation import TASKS
from helpers.evaluation_sets import write_archive
from helpers.pictures import plain_picture

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "nan": (7, 7, 7),  # the model's features of this one are not finite
}
VOCABULARY = ["", *COLOURS]
FLICKR = TASKS["retrieval/flickr_1k_test_image_text_retrieval"]


class ColourModel(torch.nn.Module):
    """Features of an image: its colour. Features of a text: the colours that it names, and a little of a fourth."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.num_images = 0

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        self.num_images += len(pixels)
        colour = pixels.mean(dim=(2, 3))
        broken = (colour * 255).round().eq(7).all(dim=1, keepdim=True)
        rest = torch.full_like(colour[:, :1], 0.1)
        return torch.cat([colour.masked_fill(broken, torch.nan), rest], 1) * self.scale

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        table = torch.tensor([(0, 0, 0), *COLOURS.values()], device=tokens.device) / 255.0
        colour = table[tokens].sum(1)
        return torch.cat([colour, torch.full_like(colour[:, :1], 0.1)], 1) * self.scale


def tokenize(texts: Sequence[str]) -> torch.Tensor:
    words = [[word.lower() for word in text.split()] for text in texts]
    rows = [[VOCABULARY.index(word) if word in VOCABULARY else 0 for word in line] for line in words]
    width = 8
    return torch.tensor([(row + [0] * width)[:width] for row in rows])


def preprocess(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32).copy()).permute(2, 0, 1) / 255


def toy_clip(fingerprint: str = "toy") -> LoadedCLIP:
    return LoadedCLIP(ColourModel().eval(), preprocess, tokenize, fingerprint)


def picture(colour: str, format: str = "png") -> bytes:
    return plain_picture(COLOURS[colour], format, **({"lossless": True} if format == "webp" else {}))


def vector(*values: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def sample(colour: str, label: int, *metadata: float) -> dict[str, bytes]:
    parts = {"cls": str(label).encode(), "png": picture(colour)}
    return parts | ({"npy": vector(*metadata)} if metadata else {})


def write_flickr(data: Path, rows: Sequence[Mapping[str, object]]) -> None:
    images = {f"images/{colour}.jpg": picture(colour) for colour in ("red", "green", "blue", "nan")}
    images["__MACOSX/images/._red.jpg"] = b"not an image"
    write_archive(data / FLICKR.folder, FLICKR.options["table"], rows, FLICKR.options["images"], images)
