"""The demo's data: a pool that looks like the web in small, trusted pairs, and evaluation tasks.

The files are those of the real thing: img2dataset's shards (DataComp's flavour, with ``uid``) and DataComp's evaluation
folders. Everything is drawn here, and is a function of the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from clipsift_app.demo.glyphs import OBJECTS
from clipsift_app.demo.pairs import Pair, RandomGenerator, make_pool, make_trusted
from clipsift_app.demo.patterns import TEXTURES
from clipsift_app.demo.pictures import PHOTO, SHIFT, SKETCH, Picture, draw_object, draw_texture, encode_jpeg
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path, read_json, write_json, write_text

POOL_SHARDS = (0.37, 0.28, 0.22, 0.13)  # the pool's share in each: uneven, as shards are after failed downloads
MARKER = "demo_data.json"  # written last: it is there when everything is


@dataclass(frozen=True)
class Task:
    """A stand-in for one of DataComp's zero-shot tasks, under its key's folder."""

    folder: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    draw: Callable[[RandomGenerator, str], Picture]


_OBJECT_TEMPLATES = ("a photo of a {c}", "{c}", "a picture of a {c}", "a drawing of a {c}")
TASKS = (
    *(
        Task(folder, tuple(OBJECTS), _OBJECT_TEMPLATES, partial(draw_object, style=style))
        for folder, style in (
            ("wds_imagenet1k_test", PHOTO),
            ("wds_imagenetv2_test", SHIFT),
            ("wds_imagenet_sketch_test", SKETCH),
        )
    ),
    Task("wds_vtab-dtd_test", tuple(TEXTURES), ("a {c} texture", "{c} pattern", "{c}"), draw_texture),
)


def make_demo_data(
    folder: Path,
    seed: int,
    pool_size: int = 8000,
    trusted_size: int = 2000,
    eval_size: int = 1000,
) -> None:
    """Draw the demo's pool, trusted pairs and evaluation tasks into ``folder``.

    Writes ``pool/`` and ``trusted/`` (each ``shards/*.tar`` of ``.jpg .txt .json``), ``eval/wds_<key>_test/``
    (DataComp's layout, stand-in pictures under real keys) and ``truth.parquet`` (uid and kind of each pair of the
    pool: for judging a selection, never for making it). The same arguments give the same bytes; complete data are
    left alone.

    Args:
        folder: where to; made when missing.
        seed: of everything drawn; not negative.
        pool_size: pairs of all kinds (:data:`clipsift_app.demo.pairs.POOL_SHARES`).
        trusted_size: clean pairs of the evaluation's classes, for training a teacher.
        eval_size: pictures of each task, rounded down to a multiple of its number of classes.

    Raises:
        ClipsiftError: ``folder`` holds demo data made with other arguments.
    """
    settings = {
        "seed": seed,
        "pool_size": pool_size,
        "trusted_size": trusted_size,
        "eval_size": eval_size,
    }
    if _is_complete(folder, settings):
        return
    # A stream for each part: the size of one changes nothing in another.
    rngs = [np.random.default_rng([seed, part]) for part in range(2 + len(TASKS))]
    pool = make_pool(rngs[0], pool_size)
    _write_shards(rngs[0], folder / "pool" / "shards", pool, POOL_SHARDS)
    _write_shards(rngs[1], folder / "trusted" / "shards", make_trusted(rngs[1], trusted_size), (1.0,))
    for rng, task in zip(rngs[2:], TASKS):
        _write_task(rng, folder / "eval" / task.folder, task, eval_size)
    with atomic_path(folder / "truth.parquet") as path:
        pq.write_table(pa.table({"uid": [pair.uid for pair in pool], "kind": [pair.kind for pair in pool]}), path)
    write_json(folder / MARKER, settings)


def _is_complete(folder: Path, settings: dict[str, int]) -> bool:
    if not (folder / MARKER).is_file():
        return False
    found = read_json(folder / MARKER)
    for name, value in settings.items():
        if found.get(name) != value:
            raise ClipsiftError(
                f"{folder}: holds demo data with {name} {found.get(name)}, not {value}; give another folder"
            )
    return True


def _write_shards(rng: RandomGenerator, folder: Path, pairs: list[Pair], shares: tuple[float, ...]) -> None:
    """Write ``pairs`` as img2dataset does: keys with gaps where downloads failed, in the order of arrival."""
    ends = np.round(np.cumsum(shares) * len(pairs)).astype(int)
    for shard, (start, end) in enumerate(zip([0, *ends[:-1]], ends)):
        count = int(end - start)
        failures = count // 30
        rows = rng.permutation(count + failures)[:count]
        samples = [_members(pair, f"{shard:08d}{row:04d}") for row, pair in zip(rows, pairs[start:end])]
        _write_tar(folder / f"{shard:08d}.tar", samples)
        stats = {"count": count + failures, "successes": count, "failed_to_download": failures, "failed_to_resize": 0}
        write_json(folder / f"{shard:08d}_stats.json", stats)


def _members(pair: Pair, key: str) -> dict[str, Any]:
    width, height = pair.size
    about = {
        "uid": pair.uid,
        "caption": pair.caption,
        "url": "",
        "key": key,
        "status": "success",
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "sha256": hashlib.sha256(pair.image).hexdigest(),
    }
    return {"__key__": key, "jpg": pair.image, "txt": pair.caption.encode(), "json": json.dumps(about).encode()}


def _write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as stream,
        wds.TarWriter(stream, encoder=False, mtime=0) as writer,
    ):
        for sample in samples:
            writer.write(sample)


def _write_task(rng: RandomGenerator, folder: Path, task: Task, size: int) -> None:
    """Write a task's folder: the same number of pictures of each class, in two tars."""
    labels = rng.permutation(np.repeat(np.arange(len(task.classes)), size // len(task.classes)))
    samples = []
    for i, label in enumerate(labels):
        picture = task.draw(rng, task.classes[label])
        samples.append({"__key__": f"s{i:07d}", "cls": str(label).encode(), "jpg": encode_jpeg(rng, picture.image)})
    for shard, part in enumerate(np.array_split(np.arange(len(samples)), 2)):
        _write_tar(folder / "test" / f"{shard}.tar", [samples[i] for i in part])
    write_text(folder / "test" / "nshards.txt", "2")
    write_text(folder / "classnames.txt", "\n".join(task.classes))
    write_text(folder / "zeroshot_classification_templates.txt", "\n".join(task.templates))
