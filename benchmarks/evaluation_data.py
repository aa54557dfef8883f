"""Evaluation sets for the benchmark: real prompts, pictures of the size and weight of photographs on the web."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.tars import write_tar
from evaluation import TASKS
from evaluation.data.prompts import CLASSNAMES, TEMPLATES, packaged_lines
from evaluation.tasks import Task, select_tasks

FLICKR = TASKS["retrieval/flickr_1k_test_image_text_retrieval"]
SHARDS = 4


def make_picture(rng: np.random.Generator) -> bytes:
    """A JPEG of the size and, about, the detail of a photograph on the web."""
    pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_task(data: Path, task: Task, names: list[str], templates: list[str], num_images: int) -> None:
    """A task's folder in DataComp's layout."""
    rng, folder = np.random.default_rng(len(names)), data / task.folder
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    (folder / "test" / "nshards.txt").write_text(str(SHARDS))
    for shard in range(SHARDS):
        samples = (
            (f"s{number:07d}", {"cls": str(rng.integers(len(names))).encode(), "jpg": make_picture(rng)})
            for number in range(shard, num_images, SHARDS)
        )
        write_tar(folder / "test" / f"{shard}.tar", samples)


def make_flickr(data: Path, names: list[str], num_images: int) -> None:
    """Flickr's csv and zip, five captions per image."""
    rng, folder = np.random.default_rng(0), data / FLICKR.folder
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / FLICKR.options["images"], "w") as archive:
        for number in range(num_images):
            archive.writestr(f"images/{number}.jpg", make_picture(rng))
    with open(folder / FLICKR.options["table"], "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["filename", "raw"])
        for number in range(num_images):
            things = [rng.choice(names, 3) for _ in range(5)]
            writer.writerow(
                [f"{number}.jpg", json.dumps([f"A {a} and a {b} stand by the {c} ." for a, b, c in things])]
            )


def make_data(data: Path, classes: int, images: int) -> list[Task]:
    """ImageNet's prompts, twice (ImageNet v2 shares them), two tasks of few prompts, and Flickr.

    Returns:
        The tasks, in DataComp's order.
    """
    tasks = []
    for key, num_images in (
        ("imagenet1k", images),
        ("imagenetv2", images // 5),
        ("mnist", images),
        ("country211", images),
    ):
        names = (packaged_lines(TASKS[key], CLASSNAMES) or [])[:classes]
        make_task(data, TASKS[key], names, packaged_lines(TASKS[key], TEMPLATES) or [], num_images)
        tasks.append(TASKS[key])
    make_flickr(data, packaged_lines(TASKS["imagenet1k"], CLASSNAMES) or [], images // 2)
    return select_tasks([task.key for task in [*tasks, FLICKR]])
