"""The demo's captions, in the manner of alt texts: some describe the picture, many do not."""

from __future__ import annotations

import numpy as np

from clipsift_app.demo.pictures import Picture

# {s} subject, {c} its colour, {b} the background's colour, {n} a number
OBJECT_FORMS = (
    "a photo of a {s}",
    "{s}",
    "{c} {s}",
    "{s} on {b} background",
    "{s} clip art",
    "cute {s} icon",
    "picture of a {s}",
    "{s} stock photo",
    "{s}, size {n}",
    "my new {s}!",
    "{s}-{n}.jpg",
    "free vector {s}",
    "{c} {s} on {b}",
    "best {s} of 2019",
    "handmade {s} gift",
    "{s} for sale",
)
SKETCH_FORMS = (
    "a sketch of a {s}",
    "{s} line drawing",
    "{s} coloring page",
    "how to draw a {s}",
    "outline of a {s}, {b} paper",
    "{s} drawing",
)
TEXTURE_FORMS = (
    "{s} texture",
    "{c} and {b} {s} pattern",
    "{s} wallpaper",
    "seamless {s} fabric, {c}",
    "{c} {s} background",
    "{s} paper {n} cm",
)
SCENE_FORMS = (
    "{s}",
    "a photo of the {s}",
    "{s} under a {c} sky",
    "{s} poster {n} cm",
    "{s} at dawn",
    "holiday {s} tour",
    "{s} canvas print",
    "view of {s}",
)
# True of every picture, or of every one of its sort, and so of none.
GENERIC_FORMS = (
    "image {n} of 30",
    "buy now free shipping",
    "click to enlarge",
    "img_{n}.jpg",
    "see more pictures like this",
    "stock photo",
    "a photo",
    "best of 2019",
    "for sale",
    "cute icon",
    "free vector clip art",
    "picture on {b} background",
)
_WORDS = (
    "sale", "happy", "birthday", "welcome", "keep", "calm", "love", "home", "open", "menu", "vintage", "since", "1998",
    "summer", "party", "new", "hotel", "coffee", "super", "quality", "winner", "monday", "thanks", "original",
    "star", "sun", "heart", "crown", "moon", "bell",
)  # fmt: skip


def describe(rng: np.random.Generator, picture: Picture, forms: tuple[str, ...]) -> str:
    """One of ``forms`` filled with what is true of ``picture``; sometimes capitalised, as titles are."""
    form = forms[rng.integers(len(forms))]
    text = form.format(s=picture.subject, c=picture.colour, b=picture.background, n=int(rng.integers(1, 31)))
    return text.capitalize() if rng.random() < 0.3 else text


def slogan(rng: np.random.Generator) -> str:
    """Two or three words to be rendered in a picture; now and then the name of a class is among them."""
    return " ".join(rng.choice(_WORDS, size=int(rng.integers(2, 4)), replace=False))
