"""Forty things a child could draw, as polygons in [-1, 1] x [-1, 1], y down: the object classes of the demo."""

from __future__ import annotations

import numpy as np

MAIN, ACCENT, DARK = range(3)  # the roles that a palette gives colours to

Points = np.ndarray  # (n, 2) float64, the corners of one polygon
Glyph = list[tuple[int, Points]]  # painted in order, (role, polygon)


def _poly(*coordinates: float) -> Points:
    return np.array(coordinates, dtype=float).reshape(-1, 2)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return _poly(left, top, right, top, right, bottom, left, bottom)


def _bar(x0: float, y0: float, x1: float, y1: float, width: float = 0.14) -> Points:
    along = np.array([x1 - x0, y1 - y0])
    side = np.array([-along[1], along[0]]) * (width / 2 / np.hypot(*along))
    ends = np.array([[x0, y0], [x1, y1]])
    return np.concatenate([ends + side, ends[::-1] - side])


def _disc(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, end: float = 360) -> Points:
    """An ellipse, or the part of it from ``start`` to ``end`` degrees (0 is right, 90 is down)."""
    angle = np.radians(np.linspace(start, end, 24))
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def _band(x: float, y: float, radius: float, width: float = 0.15, start: float = 0, end: float = 360) -> Points:
    """A ring, or a part of one."""
    inner, outer = (_disc(x, y, r, start=start, end=end) for r in (radius - width / 2, radius + width / 2))
    return np.concatenate([outer, inner[::-1]])


def _star(tips: int, outer: float, inner: float, x: float = 0, y: float = 0) -> Points:
    angle = np.pi * np.arange(2 * tips) / tips - np.pi / 2
    radius = np.where(np.arange(2 * tips) % 2, inner, outer)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -y / 15], axis=1) * 0.9


def _moon() -> Points:
    return np.concatenate([_disc(0, 0, 0.9, start=70, end=290), _disc(0.35, 0, 0.62, 0.85, start=280, end=80)])


OBJECTS: dict[str, Glyph] = {
    "house": [
        (MAIN, _box(-0.7, -0.1, 0.7, 0.9)),
        (ACCENT, _poly(-0.95, -0.1, 0, -0.9, 0.95, -0.1)),
        (DARK, _box(-0.2, 0.3, 0.2, 0.9)),
    ],
    "tree": [(DARK, _box(-0.13, 0.2, 0.13, 0.95)), (MAIN, _disc(0, -0.3, 0.7, 0.62))],
    "car": [
        (ACCENT, _poly(-0.6, -0.05, -0.35, -0.5, 0.35, -0.5, 0.65, -0.05)),
        (MAIN, _box(-0.95, -0.05, 0.95, 0.42)),
        (DARK, _disc(-0.5, 0.45, 0.25)),
        (DARK, _disc(0.5, 0.45, 0.25)),
    ],
    "boat": [
        (MAIN, _poly(-0.9, 0.35, 0.9, 0.35, 0.55, 0.85, -0.55, 0.85)),
        (DARK, _bar(0, 0.35, 0, -0.95, 0.08)),
        (ACCENT, _poly(0.08, -0.9, 0.08, 0.2, 0.75, 0.2)),
    ],
    "fish": [
        (ACCENT, _poly(0.35, 0, 0.95, -0.5, 0.95, 0.5)),
        (MAIN, _disc(-0.15, 0, 0.7, 0.45)),
        (DARK, _disc(-0.5, -0.1, 0.09)),
    ],
    "sun": [(ACCENT, _star(12, 0.98, 0.62)), (MAIN, _disc(0, 0, 0.55))],
    "moon": [(MAIN, _moon())],
    "star": [(MAIN, _star(5, 0.98, 0.4))],
    "heart": [(MAIN, _heart())],
    "flower": [
        (DARK, _bar(0, 0, 0, 0.98)),
        *[(MAIN, _disc(0.4 * np.cos(a), 0.4 * np.sin(a) - 0.3, 0.28)) for a in np.arange(6) * np.pi / 3],
        (ACCENT, _disc(0, -0.3, 0.24)),
    ],
    "mushroom": [
        (ACCENT, _box(-0.22, 0, 0.22, 0.9)),
        (MAIN, _disc(0, 0.1, 0.9, 0.85, 180, 360)),
        (ACCENT, _disc(-0.35, -0.25, 0.14)),
        (ACCENT, _disc(0.3, -0.3, 0.16)),
    ],
    "cup": [(MAIN, _band(0.45, 0, 0.35)), (MAIN, _poly(-0.7, -0.65, 0.5, -0.65, 0.35, 0.75, -0.55, 0.75))],
    "umbrella": [
        (DARK, _bar(0, -0.3, 0, 0.8, 0.1)),
        (DARK, _band(0.17, 0.78, 0.17, 0.1, 0, 180)),
        (MAIN, _disc(0, 0.05, 0.95, 0.9, 180, 360)),
    ],
    "key": [
        (MAIN, _band(-0.55, 0, 0.32, 0.2)),
        (MAIN, _bar(-0.25, 0, 0.95, 0, 0.18)),
        (MAIN, _box(0.5, 0, 0.65, 0.35)),
        (MAIN, _box(0.8, 0, 0.95, 0.4)),
    ],
    "apple": [
        (MAIN, _disc(-0.3, 0.2, 0.52, 0.62)),
        (MAIN, _disc(0.3, 0.2, 0.52, 0.62)),
        (DARK, _bar(0, -0.3, 0.1, -0.9, 0.12)),
        (ACCENT, _disc(0.4, -0.65, 0.3, 0.16)),
    ],
    "ladder": [
        (MAIN, _bar(-0.4, -0.98, -0.4, 0.98)),
        (MAIN, _bar(0.4, -0.98, 0.4, 0.98)),
        *[(MAIN, _bar(-0.4, y, 0.4, y, 0.13)) for y in (-0.7, -0.25, 0.2, 0.65)],
    ],
    "balloon": [
        (DARK, _bar(0, 0.4, 0.1, 0.98, 0.06)),
        (MAIN, _poly(0, 0.3, 0.14, 0.52, -0.14, 0.52)),
        (MAIN, _disc(0, -0.32, 0.52, 0.65)),
        (ACCENT, _disc(-0.18, -0.5, 0.1, 0.16)),
    ],
    "bottle": [
        (
            MAIN,
            _poly(
                -0.14, -0.75, 0.14, -0.75, 0.14, -0.35, 0.38, -0.05, 0.38, 0.95, -0.38, 0.95, -0.38, -0.05, -0.14, -0.35
            ),
        ),
        (DARK, _box(-0.17, -0.95, 0.17, -0.75)),
        (ACCENT, _box(-0.38, 0.2, 0.38, 0.65)),
    ],
    "hammer": [(ACCENT, _bar(0, -0.6, 0, 0.98, 0.2)), (MAIN, _box(-0.6, -0.9, 0.55, -0.45))],
    "bird": [
        (MAIN, _disc(0, 0.1, 0.6, 0.42)),
        (MAIN, _disc(-0.5, -0.4, 0.3)),
        (ACCENT, _poly(-0.75, -0.5, -0.99, -0.35, -0.75, -0.25)),
        (MAIN, _poly(0.5, 0.1, 0.98, -0.25, 0.9, 0.2)),
        (DARK, _bar(-0.1, 0.45, -0.1, 0.9, 0.07)),
        (DARK, _bar(0.15, 0.45, 0.15, 0.9, 0.07)),
        (DARK, _disc(-0.55, -0.45, 0.07)),
    ],
    "cat": [
        (MAIN, _poly(-0.7, -0.1, -0.68, -0.95, -0.1, -0.5)),
        (MAIN, _poly(0.7, -0.1, 0.68, -0.95, 0.1, -0.5)),
        (MAIN, _disc(0, 0.15, 0.75, 0.68)),
        (DARK, _disc(-0.3, 0, 0.1)),
        (DARK, _disc(0.3, 0, 0.1)),
        (ACCENT, _poly(-0.12, 0.25, 0.12, 0.25, 0, 0.4)),
    ],
    "snowman": [
        (MAIN, _disc(0, 0.5, 0.48)),
        (MAIN, _disc(0, -0.25, 0.33)),
        (DARK, _box(-0.38, -0.66, 0.38, -0.54)),
        (DARK, _box(-0.22, -0.98, 0.22, -0.55)),
        (ACCENT, _poly(0, -0.3, 0.35, -0.2, 0, -0.15)),
    ],
    "rocket": [
        (ACCENT, _poly(-0.3, 0.2, -0.65, 0.85, 0.65, 0.85, 0.3, 0.2)),
        (MAIN, _poly(0, -0.98, 0.32, -0.4, 0.32, 0.7, -0.32, 0.7, -0.32, -0.4)),
        (DARK, _disc(0, -0.2, 0.15)),
    ],
    "bell": [
        (DARK, _disc(0, 0.72, 0.2)),
        (DARK, _disc(0, -0.8, 0.14)),
        (
            MAIN,
            np.concatenate(
                [_disc(0, -0.2, 0.5, 0.6, 180, 360), _poly(0.55, 0.35, 0.85, 0.65, -0.85, 0.65, -0.55, 0.35)]
            ),
        ),
    ],
    "crown": [
        (MAIN, _poly(-0.85, 0.6, -0.95, -0.5, -0.45, 0, 0, -0.75, 0.45, 0, 0.95, -0.5, 0.85, 0.6)),
        (ACCENT, _box(-0.85, 0.4, 0.85, 0.65)),
    ],
    "anchor": [
        (MAIN, _band(0, -0.75, 0.18, 0.12)),
        (MAIN, _bar(0, -0.6, 0, 0.9)),
        (MAIN, _bar(-0.4, -0.35, 0.4, -0.35)),
        (MAIN, _band(0, 0.15, 0.7, 0.15, 15, 165)),
    ],
    "arrow": [(MAIN, _bar(-0.95, 0, 0.3, 0, 0.34)), (MAIN, _poly(0.2, -0.6, 0.98, 0, 0.2, 0.6))],
    "cross": [(MAIN, _bar(0, -0.9, 0, 0.9, 0.44)), (MAIN, _bar(-0.9, 0, 0.9, 0, 0.44))],
    "lamp": [
        (DARK, _bar(0, 0, 0, 0.85, 0.1)),
        (DARK, _box(-0.4, 0.8, 0.4, 0.95)),
        (MAIN, _poly(-0.35, -0.9, 0.35, -0.9, 0.75, 0.1, -0.75, 0.1)),
    ],
    "chair": [
        (MAIN, _box(-0.55, 0.05, 0.55, 0.25)),
        (MAIN, _bar(-0.47, -0.95, -0.47, 0.95)),
        (MAIN, _bar(0.47, 0.1, 0.47, 0.95)),
        (ACCENT, _bar(-0.47, -0.7, -0.47, -0.2, 0.25)),
    ],
    "table": [
        (MAIN, _box(-0.98, -0.4, 0.98, -0.15)),
        (ACCENT, _bar(-0.75, -0.15, -0.75, 0.75)),
        (ACCENT, _bar(0.75, -0.15, 0.75, 0.75)),
    ],
    "kite": [
        (MAIN, _poly(0, -0.95, 0.6, -0.3, 0, 0.4, -0.6, -0.3)),
        (ACCENT, _poly(0, -0.95, 0, 0.4, -0.6, -0.3)),
        (DARK, _bar(0, 0.4, 0.25, 0.95, 0.06)),
        (ACCENT, _poly(0.0, 0.6, 0.35, 0.75, 0.3, 0.55, 0.05, 0.8)),
    ],
    "ice cream": [(ACCENT, _poly(-0.45, 0, 0.45, 0, 0, 0.98)), (MAIN, _disc(0, -0.35, 0.55, 0.5))],
    "butterfly": [
        (MAIN, _disc(-0.5, -0.35, 0.45, 0.5)),
        (MAIN, _disc(0.5, -0.35, 0.45, 0.5)),
        (ACCENT, _disc(-0.4, 0.42, 0.35, 0.38)),
        (ACCENT, _disc(0.4, 0.42, 0.35, 0.38)),
        (DARK, _disc(0, 0, 0.11, 0.8)),
    ],
    "glasses": [
        (DARK, _band(-0.5, 0, 0.36)),
        (DARK, _band(0.5, 0, 0.36)),
        (DARK, _bar(-0.15, -0.08, 0.15, -0.08)),
        (MAIN, _disc(-0.5, 0, 0.28)),
        (MAIN, _disc(0.5, 0, 0.28)),
    ],
    "clock": [
        (MAIN, _disc(0, 0, 0.92)),
        (ACCENT, _disc(0, 0, 0.7)),
        (DARK, _bar(0, 0.08, 0, -0.58, 0.12)),
        (DARK, _bar(-0.08, 0, 0.42, 0, 0.12)),
    ],
    "cactus": [
        (MAIN, _bar(0, -0.9, 0, 0.6, 0.34)),
        (MAIN, _bar(-0.6, 0.05, 0, 0.05, 0.22)),
        (MAIN, _bar(-0.6, -0.5, -0.6, 0.15, 0.22)),
        (MAIN, _bar(0.6, -0.2, 0, -0.2, 0.22)),
        (MAIN, _bar(0.6, -0.75, 0.6, -0.1, 0.22)),
        (ACCENT, _poly(-0.45, 0.5, 0.45, 0.5, 0.32, 0.95, -0.32, 0.95)),
    ],
    "flag": [
        (DARK, _bar(-0.7, -0.95, -0.7, 0.98, 0.12)),
        (MAIN, _box(-0.64, -0.9, 0.85, 0.05)),
        (ACCENT, _box(-0.64, -0.58, 0.85, -0.27)),
    ],
    "envelope": [(MAIN, _box(-0.95, -0.6, 0.95, 0.6)), (ACCENT, _poly(-0.95, -0.6, 0.95, -0.6, 0, 0.15))],
    "guitar": [
        (DARK, _bar(0, -0.98, 0, 0.1, 0.16)),
        (MAIN, _disc(0, 0.1, 0.36, 0.32)),
        (MAIN, _disc(0, 0.55, 0.5, 0.42)),
        (DARK, _disc(0, 0.3, 0.15)),
    ],
}
