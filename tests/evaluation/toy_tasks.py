"""Tasks and a model so small that every score can be told by hand: images are plain colours, classes their names."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipsift_common.clip import LoadedCLIP
from evaluation import TASKS

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "nan": (7, 7, 7),  # the model's features of this one are not finite
}
VOCABULARY = ["", *COLOURS]
TEMPLATES = ["a photo of {c}", "{c} colour"]

FLICKR = TASKS["retrieval/flickr_1k_test_image_text_retrieval"]

Parts = Mapping[str, bytes]


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


def picture(colour: str, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), COLOURS[colour]).save(buffer, kind, **({"lossless": True} if kind == "webp" else {}))
    return buffer.getvalue()


def vector(*values: float) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def sample(colour: str, label: int, *metadata: float) -> dict[str, bytes]:
    parts = {"cls": str(label).encode(), "png": picture(colour)}
    return parts | ({"npy": vector(*metadata)} if metadata else {})


def write_tar(path: Path, samples: Sequence[Parts], start: int = 0) -> None:
    with tarfile.open(path, "w") as tar:
        for number, parts in enumerate(samples, start=start):
            for extension, data in sorted(parts.items()):
                member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_task(
    folder: Path,
    samples: Sequence[Parts],
    classnames: Sequence[str] = ("red", "green", "blue"),
    templates: Sequence[str] = TEMPLATES,
    num_shards: int = 1,
) -> Path:
    """Write a task's folder in DataComp's layout, the samples dealt out in runs."""
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(classnames) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    (folder / "test" / "nshards.txt").write_text(f"{num_shards}\n")
    bounds = [len(samples) * shard // num_shards for shard in range(num_shards + 1)]
    for shard, (start, stop) in enumerate(pairwise(bounds)):
        write_tar(folder / "test" / f"{shard}.tar", samples[start:stop], start)
    return folder


def write_archive(
    folder: Path, table: str, rows: Sequence[Mapping[str, object]], archive: str, images: Mapping[str, bytes]
) -> None:
    folder.mkdir(parents=True)
    with open(folder / table, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            )
    with zipfile.ZipFile(folder / archive, "w") as handle:
        for name, data in images.items():
            handle.writestr(name, data)


def write_flickr(data: Path, rows: Sequence[Mapping[str, object]]) -> None:
    images = {f"images/{colour}.jpg": picture(colour) for colour in ("red", "green", "blue", "nan")}
    images["__MACOSX/images/._red.jpg"] = b"not an image"
    write_archive(data / FLICKR.folder, FLICKR.options["table"], rows, FLICKR.options["images"], images)


def check_metrics(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> None:
    """Same names in the same order, same values to 1e-6, None and NaN in the same places."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        mine = ours[name]
        if value is None or mine is None:
            assert mine is value, name
        else:
            assert (math.isnan(mine) and math.isnan(value)) or mine == pytest.approx(value, abs=1e-6), name
