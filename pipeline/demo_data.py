"""The demo's data: a pool that looks like the web in small, trusted pairs, and evaluation tasks, all drawn here.

The files are those of the real thing: img2dataset's shards (DataComp's flavour, with ``uid``) and DataComp's evaluation
folders. Everything is a function of the seed.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

from common.errors import ClipsiftError
from common.files import atomic_path, read_json, write_json, write_text
from common.progress import track
from pipeline import demo_captions as captions
from pipeline.demo_glyphs import OBJECTS
from pipeline.demo_patterns import DIAGRAMS, TEXTURES
from pipeline.demo_pictures import (
    PHOTO,
    SHIFT,
    SKETCH,
    Picture,
    crop_a_little,
    draw_diagram,
    draw_object,
    draw_texture,
    draw_words,
    encode_jpeg,
)

POOL_SHARES = {  # what a crawl is made of; "good" is what a filter should find
    "good": 0.41,
    "mismatched": 0.22,  # the caption of another picture
    "generic": 0.12,  # a caption that fits every picture
    "text": 0.07,  # words in the picture, the same words in the caption
    "duplicate": 0.05,  # a few pictures, over and over
    "off-target": 0.13,  # a right caption, of something that no evaluation asks for
}
COPIES = 25  # of each duplicated picture
POOL_SHARDS = (0.37, 0.28, 0.22, 0.13)  # uneven, as shards are after failed downloads
TEXTURE_SHARE = 0.2  # of the pictures that show a class
DIAGRAM_SHARE = 0.15  # of the trusted pairs
SKETCH_SHARE = 0.2  # of the pictures that show an object
MARKER = "demo_data.json"  # written last: it is there when everything is

RandomGenerator = np.random.Generator


@dataclass(frozen=True)
class Pair:
    """One image-text pair as it goes into a shard."""

    uid: str
    kind: str
    image: bytes
    size: tuple[int, int]
    caption: str


@dataclass(frozen=True)
class Task:
    """A stand-in for one of DataComp's zero-shot tasks, under its key's folder."""

    folder: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    draw: Callable[[RandomGenerator, str], Picture]


_OBJECT_TEMPLATES = ("a photo of a {c}", "{c}", "a picture of a {c}", "a drawing of a {c}")
TASKS = (
    Task("wds_imagenet1k_test", tuple(OBJECTS), _OBJECT_TEMPLATES, lambda rng, name: draw_object(rng, name, PHOTO)),
    Task("wds_imagenetv2_test", tuple(OBJECTS), _OBJECT_TEMPLATES, lambda rng, name: draw_object(rng, name, SHIFT)),
    Task("wds_imagenet_sketch_test", tuple(OBJECTS), _OBJECT_TEMPLATES, lambda rng, name: draw_object(rng, name, SKETCH)),
    Task("wds_vtab-dtd_test", tuple(TEXTURES), ("a {c} texture", "{c} pattern", "{c}"), draw_texture),
)


def make_demo_data(
    folder: Path, seed: int, pool_size: int = 6000, trusted_size: int = 1500, eval_size: int = 1000
) -> None:
    """Draw the demo's pool, trusted pairs and evaluation tasks into ``folder``.

    Writes ``pool/shards`` and ``trusted/shards`` (tars of ``.jpg .txt .json``), ``eval/wds_<key>_test`` (DataComp's
    layout, stand-in pictures under real keys) and ``truth.parquet`` (uid, kind of each pair of the pool: for judging a
    selection, never for making it). The same arguments give the same bytes; complete data are left as they are.

    Args:
        folder: where to; made when missing.
        seed: of everything drawn; not negative.
        pool_size, trusted_size: number of pairs.
        eval_size: number of pictures of each task, rounded down to a multiple of its classes.

    Raises:
        ClipsiftError: ``folder`` holds demo data made with other arguments.
    """
    settings = {"seed": seed, "pool_size": pool_size, "trusted_size": trusted_size, "eval_size": eval_size}
    marker = folder / MARKER
    if marker.is_file():
        found = read_json(marker)
        if found != settings:
            differing = next(name for name in settings if found.get(name) != settings[name])
            raise ClipsiftError(
                f"{folder}: holds demo data with {differing} {found.get(differing)}, not {settings[differing]}; "
                "give another folder or delete this one"
            )
        return
    pool_rng, trusted_rng, *task_rngs = (np.random.default_rng([seed, part]) for part in range(2 + len(TASKS)))
    pool = make_pool(pool_rng, pool_size)
    _write_shards(pool_rng, folder / "pool" / "shards", pool, POOL_SHARDS)
    _write_shards(trusted_rng, folder / "trusted" / "shards", make_trusted(trusted_rng, trusted_size), (1.0,))
    target_rng = np.random.default_rng([seed, 99])
    _write_shards(target_rng, folder / "target" / "shards", make_target(target_rng, 600), (1.0,))
    for rng, task in zip(task_rngs, TASKS):
        _write_task(rng, folder / "eval" / task.folder, task, eval_size)
    with atomic_path(folder / "truth.parquet") as path:
        pq.write_table(pa.table({"uid": [pair.uid for pair in pool], "kind": [pair.kind for pair in pool]}), path)
    write_json(marker, settings)


def make_pool(rng: RandomGenerator, size: int) -> list[Pair]:
    """``size`` pairs in the proportions of ``POOL_SHARES``, in random order."""
    ends = np.round(np.cumsum(list(POOL_SHARES.values())) * size).astype(int)
    counts = dict(zip(POOL_SHARES, np.diff(ends, prepend=0)))
    pick = _popular_classes(rng)
    pairs = [pair for kind, count in counts.items() for pair in _make_kind(rng, kind, int(count), pick)]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def make_trusted(rng: RandomGenerator, size: int) -> list[Pair]:
    """``size`` pairs with right captions, evenly over all there is to see, what no evaluation asks for included."""
    diagrams = [name for i, name in zip(range(round(size * DIAGRAM_SHARE)), itertools.cycle(DIAGRAMS))]
    return _clean_pairs(rng, size - len(diagrams), diagrams)


def make_target(rng: RandomGenerator, size: int) -> list[Pair]:
    """``size`` pairs of the evaluation's classes only, evenly: what the evaluation's training pictures would be."""
    return _clean_pairs(rng, size, [])


def _clean_pairs(rng: RandomGenerator, size: int, others: list[str]) -> list[Pair]:
    num_textures = round(size * TEXTURE_SHARE)
    names = list(itertools.islice(itertools.cycle(TEXTURES), num_textures))
    names += list(itertools.islice(itertools.cycle(OBJECTS), size - num_textures)) + others
    return [_pair(rng, "good", *_show(rng, names[i])) for i in rng.permutation(len(names))]


def _popular_classes(rng: RandomGenerator) -> Callable[[], str]:
    """A draw of class names with a long tail: the commonest object is six times as frequent as the rarest."""
    weights = 1 / (np.arange(len(OBJECTS)) + 8)
    objects = rng.permutation(list(OBJECTS))
    return lambda: str(
        rng.choice(list(TEXTURES)) if rng.random() < TEXTURE_SHARE else rng.choice(objects, p=weights / weights.sum())
    )


def _make_kind(rng: RandomGenerator, kind: str, count: int, pick: Callable[[], str]) -> Iterable[Pair]:
    for number in range(count):
        if kind == "text":
            words = captions.slogan(rng)
            yield _pair(rng, kind, draw_words(rng, words), words)
        elif kind == "off-target":
            yield _pair(rng, kind, *_show(rng, str(rng.choice(list(DIAGRAMS)))))
        elif kind == "duplicate":
            if number % COPIES == 0:
                original, caption = _show(rng, pick())
            yield _pair(rng, kind, original, caption, copy=True)
        else:
            picture, caption = _show(rng, pick())
            if kind == "mismatched":
                caption = _caption_of_another(rng, picture, pick)
            elif kind == "generic":
                caption = captions.describe(rng, picture, captions.GENERIC_OBJECT_FORMS)
            yield _pair(rng, kind, picture, caption)


def _show(rng: RandomGenerator, name: str) -> tuple[Picture, str]:
    """A picture of the class ``name`` and a caption that is right."""
    if name in TEXTURES:
        picture, forms = draw_texture(rng, name), captions.TEXTURE_FORMS
    elif name in DIAGRAMS:
        picture, forms = draw_diagram(rng, name), captions.DIAGRAM_FORMS
    elif rng.random() < SKETCH_SHARE:
        picture, forms = draw_object(rng, name, SKETCH), captions.SKETCH_FORMS
    else:
        picture, forms = draw_object(rng, name, PHOTO), captions.OBJECT_FORMS
    return picture, captions.describe(rng, picture, forms)


def _caption_of_another(rng: RandomGenerator, picture: Picture, pick: Callable[[], str]) -> str:
    while (name := pick()) == picture.subject:
        pass
    return _show(rng, name)[1]


def _pair(rng: RandomGenerator, kind: str, picture: Picture, caption: str, copy: bool = False) -> Pair:
    image = crop_a_little(rng, picture.image) if copy else picture.image
    return Pair(rng.bytes(16).hex(), kind, encode_jpeg(rng, image), image.size, caption)


def _write_shards(rng: RandomGenerator, folder: Path, pairs: list[Pair], shares: tuple[float, ...]) -> None:
    """Write ``pairs`` as img2dataset does: keys with gaps where downloads failed, in the order of arrival."""
    ends = np.round(np.cumsum(shares) / sum(shares) * len(pairs)).astype(int)
    for shard, (start, end) in enumerate(zip([0, *ends[:-1]], ends)):
        failures = (end - start) // 30
        rows = rng.permutation(end - start + failures)[: end - start]
        with atomic_path(folder / f"{shard:08d}.tar") as path, open(path, "wb") as stream:
            _write_tar(stream, (_members(pair, f"{shard:08d}{row:04d}") for row, pair in zip(rows, pairs[start:end])))
        stats = {"count": int(end - start + failures), "successes": int(end - start), "failed_to_download": int(failures),
                 "failed_to_resize": 0}  # fmt: skip
        write_json(folder / f"{shard:08d}_stats.json", stats)


def _members(pair: Pair, key: str) -> dict[str, str | bytes]:
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


def _write_tar(stream: io.BufferedWriter, samples: Iterable[dict[str, str | bytes]]) -> None:
    with wds.TarWriter(stream, encoder=False, mtime=0) as writer:
        for sample in samples:
            writer.write(sample)


def _write_task(rng: RandomGenerator, folder: Path, task: Task, size: int) -> None:
    """Write a task's folder: the same number of pictures of each class, in two tars."""
    labels = rng.permutation(np.repeat(np.arange(len(task.classes)), size // len(task.classes)))
    samples = [
        {"__key__": f"s{i:07d}", "cls": str(label).encode(), "jpg": encode_jpeg(rng, task.draw(rng, task.classes[label]).image)}
        for i, label in enumerate(labels)
    ]
    half = len(samples) // 2
    for shard, part in enumerate((samples[:half], samples[half:])):
        with atomic_path(folder / "test" / f"{shard}.tar") as path, open(path, "wb") as stream:
            _write_tar(stream, part)
    write_text(folder / "test" / "nshards.txt", "2\n")
    write_text(folder / "classnames.txt", "\n".join(task.classes) + "\n")
    write_text(folder / "zeroshot_classification_templates.txt", "\n".join(task.templates) + "\n")
