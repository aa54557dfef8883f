"""What the demo's shards hold: image-text pairs of every kind that a crawl of the web brings home, and clean ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipsift_app.demo import captions
from clipsift_app.demo.glyphs import OBJECTS
from clipsift_app.demo.patterns import SCENES, TEXTURES
from clipsift_app.demo.pictures import (
    PHOTO,
    SKETCH,
    Picture,
    crop_a_little,
    draw_object,
    draw_scene,
    draw_texture,
    draw_words,
    encode_jpeg,
)
from clipsift_common.progress import track

POOL_SHARES = {  # what a crawl is made of; "good" is what a filter should find
    "good": 0.42,
    "mismatched": 0.23,  # the caption of another picture
    "generic": 0.13,  # a caption that fits every picture
    "text": 0.07,  # words in the picture, the same words in the caption
    "duplicate": 0.05,  # a few pictures, over and over
    "off-target": 0.10,  # a right caption, of something that no evaluation asks for
}
COPIES = 25  # of each duplicated picture
TEXTURE_SHARE = 0.2  # of the pictures that show a class
SKETCH_SHARE = 0.2  # of the pictures that show an object

RandomGenerator = np.random.Generator


@dataclass(frozen=True)
class Pair:
    """One image-text pair as it goes into a shard."""

    uid: str
    kind: str
    image: bytes
    size: tuple[int, int]
    caption: str


def make_pool(rng: RandomGenerator, size: int) -> list[Pair]:
    """``size`` pairs in the proportions of ``POOL_SHARES``, in random order."""
    ends = np.round(np.cumsum(list(POOL_SHARES.values())) * size).astype(int)
    counts = dict(zip(POOL_SHARES, np.diff(ends, prepend=0)))
    pick = _popular_classes(rng)
    drawn = (pair for kind, count in counts.items() for pair in _make_kind(rng, kind, int(count), pick))
    pairs = list(track(drawn, "draw pool", total=size, unit="pairs"))
    return [pairs[i] for i in rng.permutation(len(pairs))]


def make_trusted(rng: RandomGenerator, size: int) -> list[Pair]:
    """``size`` pairs of the classes with right captions, evenly over them, as a curated set is."""
    num_textures = round(size * TEXTURE_SHARE)
    names = list(itertools.islice(itertools.cycle(TEXTURES), num_textures))
    names += itertools.islice(itertools.cycle(OBJECTS), size - num_textures)
    return [_pair(rng, "good", *_show(rng, names[i])) for i in rng.permutation(size)]


def _popular_classes(rng: RandomGenerator) -> Callable[[], str]:
    """A draw of class names with a long tail: the commonest object is six times as frequent as the rarest."""
    weights = 1 / (np.arange(len(OBJECTS)) + 8)
    objects = rng.permutation(list(OBJECTS))
    return lambda: str(
        rng.choice(list(TEXTURES)) if rng.random() < TEXTURE_SHARE else rng.choice(objects, p=weights / weights.sum())
    )


def _make_kind(rng: RandomGenerator, kind: str, count: int, pick: Callable[[], str]) -> Iterator[Pair]:
    for number in range(count):
        if kind == "text":
            words = captions.slogan(rng)
            yield _pair(rng, kind, draw_words(rng, words), words)
        elif kind == "off-target":
            yield _pair(rng, kind, *_show(rng, str(rng.choice(list(SCENES)))))
        elif kind == "duplicate":
            if number % COPIES == 0:
                original, caption = _show(rng, pick())
            yield _pair(rng, kind, original, caption, copy=True)
        else:
            picture, caption = _show(rng, pick())
            if kind == "mismatched":
                caption = _caption_of_another(rng, picture, pick)
            elif kind == "generic":
                caption = captions.describe(rng, picture, captions.GENERIC_FORMS)
            yield _pair(rng, kind, picture, caption)


def _show(rng: RandomGenerator, name: str) -> tuple[Picture, str]:
    """A picture of the class ``name`` and a caption that is right."""
    forms: tuple[str, ...]
    if name in TEXTURES:
        picture, forms = draw_texture(rng, name), captions.TEXTURE_FORMS
    elif name in SCENES:
        picture, forms = draw_scene(rng, name), captions.SCENE_FORMS
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
