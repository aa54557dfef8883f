"""The demo's pictures: objects, textures, scenes and rendered words, each drawn from a random generator.

Everything is painted at twice its size and reduced, so that edges are smooth at 32 pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from clipsift_app.demo.glyphs import DARK, MAIN, OBJECTS
from clipsift_app.demo.patterns import SCENES, TEXTURE_COLOURS, TEXTURES, Colour

SIDES = (36, 40, 44, 48)  # pixels of a finished picture, per axis
OVERSAMPLING = 2


COLOURS: dict[str, Colour] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (248, 214, 60),
    "green": (60, 160, 70),
    "blue": (45, 95, 205),
    "purple": (130, 65, 170),
    "pink": (245, 140, 180),
    "brown": (130, 85, 50),
    "black": (30, 30, 34),
    "white": (245, 245, 242),
    "grey": (140, 142, 148),
}
# What these things mostly look like: (main, accent). Trees are green, in pictures as in life.
USUAL_COLOURS: dict[str, tuple[str, str]] = {
    "house": ("white", "red"), "tree": ("green", "green"), "car": ("red", "white"), "boat": ("brown", "white"),
    "fish": ("orange", "orange"), "sun": ("yellow", "orange"), "moon": ("yellow", "white"), "star": ("yellow", "white"),
    "heart": ("red", "red"), "flower": ("pink", "yellow"), "mushroom": ("red", "white"), "cup": ("white", "blue"),
    "umbrella": ("purple", "black"), "key": ("grey", "grey"), "apple": ("green", "green"), "ladder": ("brown", "brown"),
    "balloon": ("red", "white"), "bottle": ("green", "white"), "hammer": ("grey", "brown"), "bird": ("blue", "orange"),
    "cat": ("grey", "pink"), "snowman": ("white", "orange"), "rocket": ("white", "red"), "bell": ("yellow", "grey"),
    "crown": ("yellow", "red"), "anchor": ("black", "black"), "arrow": ("black", "black"), "cross": ("red", "red"),
    "lamp": ("orange", "black"), "chair": ("brown", "brown"), "table": ("brown", "brown"), "kite": ("pink", "blue"),
    "ice cream": ("pink", "brown"), "butterfly": ("blue", "purple"), "glasses": ("grey", "black"),
    "clock": ("black", "white"), "cactus": ("green", "brown"), "flag": ("blue", "white"), "envelope": ("white", "grey"),
    "guitar": ("orange", "brown"),
}  # fmt: skip
# Colours that a shifted rendering paints with instead: names stay true, values are none the pool has seen.
SHIFTED: dict[str, Colour] = {
    "red": (240, 110, 120),
    "yellow": (190, 180, 20),
    "green": (140, 235, 150),
    "blue": (110, 215, 250),
    "purple": (70, 20, 110),
    "pink": (255, 60, 190),
    "brown": (75, 45, 30),
    "white": (222, 235, 250),
}

SKIES: dict[str, Colour] = {
    "blue": (90, 160, 235),
    "grey": (150, 160, 170),
    "orange": (240, 130, 60),
    "pink": (235, 150, 170),
}


@dataclass(frozen=True)
class Style:
    """How objects are rendered: filled or in outline, on which backgrounds, in which colours."""

    backgrounds: tuple[str, ...]
    colours: tuple[str, ...]
    papers: tuple[str, ...]
    values: dict[str, Colour]
    usual: float = 0.0  # share in the colours that such things mostly have
    outline: bool = False
    turn: float = 12.0  # largest rotation, degrees


_ALL = tuple(COLOURS)
PHOTO = Style(("plain", "gradient", "cloudy"), _ALL, _ALL, COLOURS, usual=0.75)
SKETCH = Style(("plain",), ("black", "blue", "brown"), ("white", "yellow", "grey"), COLOURS, outline=True)
SHIFT = Style(("cluttered", "cloudy"), tuple(SHIFTED), _ALL, COLOURS | SHIFTED, usual=0.5, turn=20.0)


@dataclass(frozen=True)
class Picture:
    """A picture and the words that are true of it."""

    image: Image.Image
    subject: str
    colour: str = ""
    background: str = ""


def encode_jpeg(rng: np.random.Generator, image: Image.Image) -> bytes:
    """``image`` as a JPEG of the web's usual qualities."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(60, 93)))
    return buffer.getvalue()


def crop_a_little(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """What a re-upload does to a picture: one to three pixels lost at each side, and the size kept."""
    left, top, right, bottom = rng.integers(0, 4, size=4)
    box = (left, top, image.width - right, image.height - bottom)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def draw_object(rng: np.random.Generator, subject: str, style: Style) -> Picture:
    """``subject`` (a key of ``OBJECTS``) somewhere on a background, slightly turned and stretched."""
    usual = rng.random() < style.usual
    colour, accent = USUAL_COLOURS[subject] if usual else (str(name) for name in rng.choice(style.colours, size=2))
    paper = [name for name in style.papers if name not in (colour, accent)]
    background = str(rng.choice(paper))
    canvas = _background(rng, str(rng.choice(style.backgrounds)), background)
    dark = "white" if background == "black" else "black" if background != "brown" else "yellow"
    fill = [_vary(rng, style.values[name]) for name in (colour, accent, dark)]
    _paint(rng, canvas, subject, fill, style)
    return Picture(_finish(rng, canvas), subject, colour, background)


def draw_texture(rng: np.random.Generator, subject: str) -> Picture:
    """A picture filled with one of ``TEXTURES``, in two colours."""
    usual = rng.random() < PHOTO.usual
    colour, other = TEXTURE_COLOURS[subject] if usual else (str(c) for c in rng.choice(_ALL, size=2, replace=False))
    y, x, size = _grid(rng)
    mask = np.clip(TEXTURES[subject](rng, x, y), 0, 1)[..., None]
    pixels = mask * _vary(rng, COLOURS[colour]) + (1 - mask) * _vary(rng, COLOURS[other])
    return Picture(_finish(rng, _image(pixels + rng.normal(0, 6, (*size, 1)))), subject, colour, other)


def draw_scene(rng: np.random.Generator, subject: str) -> Picture:
    """One of ``SCENES`` under a sky: what the web is full of and no evaluation asks for."""
    height, width = _canvas_size(rng)
    sky = str(rng.choice(list(SKIES)))
    ramp = np.linspace(0, 1, height)[:, None, None]
    pixels = (1 - ramp) * _vary(rng, SKIES[sky]) + ramp * (250, 240, 225)
    canvas = _image(np.broadcast_to(pixels, (height, width, 3)))
    SCENES[subject](rng, ImageDraw.Draw(canvas), width, height)
    return Picture(_finish(rng, canvas), subject, sky, sky)


def draw_words(rng: np.random.Generator, words: str) -> Picture:
    """``words`` rendered, one under the other, and nothing else."""
    paper, ink = (str(name) for name in rng.choice(_ALL, size=2, replace=False))
    canvas = _background(rng, str(rng.choice(("plain", "gradient"))), paper)
    draw = ImageDraw.Draw(canvas)
    lines = words.split()
    height = min(canvas.height / len(lines) * 0.9, 36)
    font = ImageFont.load_default(height)
    height *= min(1.0, 0.92 * canvas.width / max(draw.textlength(line, font) for line in lines))
    font = ImageFont.load_default(height)
    for row, line in enumerate(lines):
        left = (canvas.width - draw.textlength(line, font)) / 2
        top = (canvas.height - height * len(lines)) / 2 + height * row
        draw.text((left, top), line, fill=_vary(rng, COLOURS[ink]), font=font)
    return Picture(_finish(rng, canvas), words, ink, paper)


def _canvas_size(rng: np.random.Generator) -> tuple[int, int]:
    height = int(rng.choice(SIDES))
    width = int(np.clip(height + rng.choice((-8, -4, 0, 0, 4, 8)), SIDES[0], SIDES[-1]))
    return height * OVERSAMPLING, width * OVERSAMPLING


def _grid(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """A slightly turned coordinate grid with an aspect-true unit of half the canvas's height."""
    size = _canvas_size(rng)
    y, x = np.meshgrid(np.arange(size[0]) * 2 / size[0] - 1, np.arange(size[1]) * 2 / size[0] - 1, indexing="ij")
    angle = np.radians(rng.uniform(-25, 25))
    return y * np.cos(angle) - x * np.sin(angle), x * np.cos(angle) + y * np.sin(angle), size


def _vary(rng: np.random.Generator, colour: Colour) -> Colour:
    r, g, b = np.clip(np.array(colour) + rng.integers(-18, 19, size=3), 0, 255)
    return int(r), int(g), int(b)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _finish(rng: np.random.Generator, canvas: Image.Image) -> Image.Image:
    image = canvas.reduce(OVERSAMPLING)
    return image.filter(ImageFilter.GaussianBlur(0.6)) if rng.random() < 0.15 else image


def _background(rng: np.random.Generator, kind: str, colour: str) -> Image.Image:
    height, width = _canvas_size(rng)
    base = np.array(_vary(rng, COLOURS[colour]), dtype=float)
    pixels = np.broadcast_to(base, (height, width, 3))
    if kind == "gradient":
        ramp = np.linspace(rng.uniform(0.5, 0.9), rng.uniform(1.0, 1.3), height)[:, None, None]
        pixels = pixels * ramp
    elif kind in ("cloudy", "cluttered"):
        clouds = _image(rng.integers(0, 256, (5, 5))).resize((width, height), Image.Resampling.BICUBIC)
        pixels = pixels + (np.asarray(clouds, dtype=float)[..., None] - 128) * 0.4
    canvas = _image(pixels)
    if kind == "cluttered":
        draw = ImageDraw.Draw(canvas)
        for _ in range(int(rng.integers(3, 7))):
            x, y, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(3, 12)
            draw.rectangle((x - r, y - r, x + r, y + r), fill=_vary(rng, COLOURS[str(rng.choice(_ALL))]))
    return canvas


def _paint(rng: np.random.Generator, canvas: Image.Image, subject: str, fill: list[Colour], style: Style) -> None:
    angle = np.radians(rng.uniform(-style.turn, style.turn))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = min(canvas.size) / 2 * rng.uniform(0.75, 0.98)
    stretch = scale * rng.uniform(0.85, 1.15, size=2) * (rng.choice((-1, 1)), 1)
    room = np.maximum(np.array(canvas.size) / 2 - scale, 0)
    centre = np.array(canvas.size) / 2 + rng.uniform(-room, room)
    draw = ImageDraw.Draw(canvas)
    width = int(rng.integers(2, 5))
    for role, points in OBJECTS[subject]:
        corners = [tuple(corner) for corner in (points * stretch) @ turn.T + centre]
        if style.outline:
            draw.line([*corners, corners[0]], fill=fill[MAIN], width=width, joint="curve")
        else:
            draw.polygon(corners, fill=fill[role], outline=fill[DARK] if role == MAIN and width == 4 else None)
