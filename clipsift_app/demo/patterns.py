"""Pictures without an object: textures, which the demo's evaluation asks for, and scenes, which it does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Texture = Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]


def _sharpen(wave: np.ndarray) -> np.ndarray:
    return wave * 6 + 0.5


def _checks(x: np.ndarray, y: np.ndarray, pitch: float) -> np.ndarray:
    return _sharpen(np.sin(x * pitch) * np.sin(y * pitch))


def _dots(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    pitch = rng.uniform(1.5, 3)
    return (0.33 - np.hypot((x * pitch) % 1 - 0.5, (y * pitch) % 1 - 0.5)) * 12


def _lines(x: np.ndarray, pitch: float, width: float = 0.22) -> np.ndarray:
    return (width - np.abs((x * pitch) % 1 - 0.5)) * 12


def _spiral(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _sharpen(np.sin(np.hypot(x, y) * rng.uniform(10, 16) + np.arctan2(y, x) * rng.choice((-1, 1))))


def _zigzag(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    fold = np.abs((x * rng.uniform(1.2, 2)) % 1 - 0.5)
    return _sharpen(np.sin((y + fold) * rng.uniform(9, 14)))


def _bricks(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    pitch = rng.uniform(2, 3.2)
    shifted = x * pitch / 2 + 0.5 * (np.floor(y * pitch) % 2)
    return np.minimum(np.abs((y * pitch) % 1 - 0.5) * -12 + 5, np.abs(shifted % 1 - 0.5) * -16 + 7)


def _marble(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    a, b, c = rng.uniform(2, 5, size=3)
    swirl = 3 * np.sin(y * a + rng.uniform(0, 6)) + 2 * np.sin((x + y) * b) + np.sin(x * c * 3)
    return 0.5 + 0.5 * np.sin(x * 4 + swirl)


def _crosshatch(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    pitch = rng.uniform(2, 3.2)
    return np.maximum(_lines(x + y, pitch, 0.12), _lines(x - y, pitch, 0.12))


def _mesh(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    pitch = rng.uniform(1.6, 3)
    return np.maximum(_lines(x, pitch, 0.1), _lines(y, pitch, 0.1))


TEXTURES: dict[str, Texture] = {
    "striped": lambda rng, x, y: _lines(x if rng.random() < 0.5 else y, rng.uniform(1.5, 4)),
    "dotted": _dots,
    "chequered": lambda rng, x, y: _checks(x, y, rng.uniform(5, 10)),
    "grid": _mesh,
    "zigzagged": _zigzag,
    "spiralled": _spiral,
    "crosshatched": _crosshatch,
    "marbled": _marble,
    "sprinkled": lambda rng, x, y: np.kron(rng.random((24, 24)) < 0.18, np.ones((4, 4)))[: x.shape[0], : x.shape[1]],
    "brick": _bricks,
}

TEXTURE_COLOURS = {  # what they are mostly seen in
    "striped": ("blue", "white"),
    "dotted": ("white", "red"),
    "chequered": ("black", "white"),
    "grid": ("grey", "white"),
    "zigzagged": ("pink", "purple"),
    "spiralled": ("yellow", "pink"),
    "crosshatched": ("black", "grey"),
    "marbled": ("grey", "white"),
    "sprinkled": ("orange", "blue"),
    "brick": ("red", "grey"),
}

Scene = Callable[[np.random.Generator, ImageDraw.ImageDraw, int, int], None]


def _ridge(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    width: int,
    height: int,
    level: float,
    relief: float,
    fill: Colour,
) -> None:
    """Land below a skyline at ``level``, rough by ``relief``; both are shares of the height, from the top."""
    count = int(rng.integers(4, 7))
    xs = np.linspace(-width / 8, width * 9 / 8, count)
    peaks = np.where(np.arange(count) % 2, 1, -1) * rng.uniform(0.4, 1, count) * rng.uniform(-1, 1)
    ys = height * (level + relief * peaks)
    draw.polygon([*zip(xs.tolist(), ys.tolist()), (width * 9 / 8, height), (-width / 8, height)], fill=fill)


def _mountains(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    _ridge(rng, draw, width, height, 0.45, 0.25, (120, 130, 160))
    _ridge(rng, draw, width, height, 0.65, 0.15, (70, 85, 110))


def _hills(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    _ridge(rng, draw, width, height, 0.55, 0.05, (110, 180, 80))
    _ridge(rng, draw, width, height, 0.75, 0.06, (70, 140, 60))


def _desert(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    _ridge(rng, draw, width, height, 0.5, 0.06, (235, 190, 110))
    _ridge(rng, draw, width, height, 0.75, 0.08, (205, 150, 80))


def _beach(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    sea = height * rng.uniform(0.35, 0.5)
    draw.rectangle((0, sea, width, height), fill=(30, 110, 180))
    _ridge(rng, draw, width, height, 0.75, 0.04, (240, 215, 160))


def _city(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    x = -4.0
    while x < width:
        wide, top = rng.uniform(8, 18), height * rng.uniform(0.2, 0.65)
        grey = int(rng.integers(60, 130))
        draw.rectangle((x, top, x + wide, height), fill=(grey, grey, grey + 20))
        for y in range(int(top) + 4, height, 6):
            draw.line((x + 2, y, x + wide - 3, y), fill=(240, 220, 120))
        x += wide + 1


def _forest(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    for x in np.sort(rng.uniform(-4, width, size=int(rng.integers(7, 12)))):
        top, wide = height * rng.uniform(-0.1, 0.2), rng.uniform(3, 6)
        draw.rectangle((x, top, x + wide, height), fill=(80, 55, 40))
        draw.ellipse((x - 10, top - 16, x + 14, top + 18), fill=(30, int(rng.integers(80, 130)), 50))


def _night(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    draw.rectangle((0, 0, width, height), fill=(12, 14, 45))
    for x, y in rng.uniform(0, (width, height), size=(int(rng.integers(25, 50)), 2)):
        draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=(250, 250, 220))


def _road(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    horizon, end = height * rng.uniform(0.35, 0.5), width * rng.uniform(0.3, 0.7)
    draw.rectangle((0, horizon, width, height), fill=(150, 165, 90))
    draw.polygon((end - 2, horizon, end + 2, horizon, width * 0.85, height, width * 0.15, height), fill=(85, 85, 90))
    draw.line((end, horizon, width / 2, height), fill=(245, 245, 240), width=2)


SCENES: dict[str, Scene] = {
    "mountains": _mountains,
    "hills": _hills,
    "desert": _desert,
    "beach": _beach,
    "city skyline": _city,
    "forest": _forest,
    "night sky": _night,
    "country road": _road,
}
