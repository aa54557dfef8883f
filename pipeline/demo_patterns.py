"""Pictures without an object: textures, which the demo's evaluation asks for, and diagrams, which it does not."""

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
    return 0.5 + 0.5 * np.sin(x * 4 + 3 * np.sin(y * a + rng.uniform(0, 6)) + 2 * np.sin((x + y) * b) + np.sin(x * c * 3))


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

Diagram = Callable[[np.random.Generator, ImageDraw.ImageDraw, int, int, Colour], None]


def _bar_chart(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    count = int(rng.integers(4, 8))
    pitch = (width - 16) / count
    draw.line((8, 6, 8, height - 8, width - 6, height - 8), fill=ink, width=2)
    for i in range(count):
        top = height - 8 - rng.uniform(0.15, 0.95) * (height - 20)
        draw.rectangle((12 + i * pitch, top, 9 + (i + 1) * pitch, height - 8), fill=ink)


def _line_graph(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    draw.line((8, 6, 8, height - 8, width - 6, height - 8), fill=ink, width=2)
    xs = np.linspace(10, width - 8, int(rng.integers(5, 9)))
    for _ in range(int(rng.integers(1, 3))):
        ys = height / 2 + np.cumsum(rng.normal(0, height / 9, len(xs)))
        draw.line([(x, float(np.clip(y, 8, height - 12))) for x, y in zip(xs, ys)], fill=ink, width=4)


def _barcode(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    x = 8.0
    while x < width - 10:
        bar = rng.choice((2, 2, 4, 6))
        draw.rectangle((x, 10, x + bar - 1, height - 18), fill=ink)
        x += bar + rng.choice((2, 4, 6))
    for x in range(10, width - 12, 10):
        draw.rectangle((x, height - 14, x + 5, height - 8), outline=ink)


def _maze(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    step = int(rng.integers(9, 14))
    for x in range(4, width - step, step):
        for y in range(4, height - step, step):
            end = (x + step, y) if rng.random() < 0.5 else (x, y + step)
            draw.line((x, y, *end), fill=ink, width=3)


def _spreadsheet(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    columns, rows = int(rng.integers(3, 5)), int(rng.integers(6, 10))
    for row in range(rows):
        y = 4 + row * (height - 8) / rows
        draw.line((4, y, width - 4, y), fill=ink)
        for column in range(columns):
            x = 8 + column * (width - 8) / columns
            end = x + rng.uniform(0.2, 0.75) * width / columns
            draw.line((x, y + 4, end, y + 4), fill=ink, width=5 if row == 0 else 2)


def _street_map(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    for _ in range(int(rng.integers(6, 10))):
        start, end = rng.uniform(0, 1, size=2) * (width, width), rng.uniform(0, 1, size=2) * (height, height)
        across = (0, float(end[0]), width, float(end[1])) if rng.random() < 0.5 else (float(start[0]), 0, float(start[1]), height)
        draw.line(across, fill=ink, width=int(rng.choice((2, 2, 5))))


def _crossword(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    step = int(rng.integers(11, 16))
    for x in range(2, width - step, step):
        for y in range(2, height - step, step):
            draw.rectangle((x, y, x + step, y + step), outline=ink, fill=ink if rng.random() < 0.3 else None)


def _circuit(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, ink: Colour) -> None:
    for _ in range(int(rng.integers(7, 11))):
        x, y = rng.uniform(6, width - 6), rng.uniform(6, height - 6)
        for _ in range(2):
            nx, ny = (rng.uniform(6, width - 6), y) if rng.random() < 0.5 else (x, rng.uniform(6, height - 6))
            draw.line((x, y, nx, ny), fill=ink, width=2)
            x, y = nx, ny
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=ink)


DIAGRAMS: dict[str, Diagram] = {
    "bar chart": _bar_chart,
    "line graph": _line_graph,
    "barcode": _barcode,
    "maze": _maze,
    "spreadsheet": _spreadsheet,
    "street map": _street_map,
    "crossword": _crossword,
    "circuit board": _circuit,
}
