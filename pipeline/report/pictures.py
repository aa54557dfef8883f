"""Pictures from the pool for the page: which ones, and small enough to be part of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from common.images import ImageError, decode_image
from pipeline.report.kinds import Truth
from pipeline.report.score_sample import ScoreSample

PER_BAND = 6
BAND_SHARE = 0.02  # a band is the outermost 2 % of what was kept or dropped, so that it shows more than one outlier
THUMBNAIL = 192  # pixels of the longer side
CAPTION_LENGTH = 160


class PictureIndex(Protocol):
    """What of ``selection.index.PoolIndex`` is used here."""

    def find(self, uids: np.ndarray) -> np.ndarray: ...

    def read(self, row: int) -> Any: ...


@dataclass(frozen=True)
class Picture:
    """One pair on the page; ``source`` is a data: URI, ``caption`` printable but otherwise as the web has it."""

    source: str
    width: int
    height: int
    caption: str
    score: float
    kind: str | None


@dataclass(frozen=True)
class Band:
    """Pictures from one end of what was kept or dropped, in order of falling score."""

    title: str
    kept: bool
    pictures: list[Picture]


# title, kept, whether the band is at the upper end
BANDS = (
    ("Best kept", True, True),
    ("Worst kept", True, False),
    ("Best dropped", False, True),
    ("Worst dropped", False, False),
)


def picture_bands(
    index: PictureIndex, sample: ScoreSample, column: str, truth: Truth | None, titles: frozenset[str] | None = None
) -> list[Band]:
    """The four bands of a score column (or those in ``titles``); a band that has no readable picture is left out."""
    if sample.kept is None:
        return []
    bands = []
    for title, kept, upper in BANDS:
        if titles is None or title in titles:
            rows = band_rows(sample.columns[column], sample.kept == kept, upper)
            pictures = _pictures(index, sample, column, rows, truth)
            if pictures:
                bands.append(Band(title, kept, pictures))
    return bands


def band_rows(scores: np.ndarray, among: np.ndarray, upper: bool) -> np.ndarray:
    """:data:`PER_BAND` rows, of falling score, evenly spread over one end of the scores of the rows ``among``.

    The end is the outermost :data:`BAND_SHARE`, or as many as are shown if that is more; its extreme row is included.
    """
    rows = np.flatnonzero(among & np.isfinite(scores))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    size = min(len(rows), max(PER_BAND, round(len(rows) * BAND_SHARE)))
    end = rows[:size] if upper else rows[len(rows) - size :]
    return end[np.unique(np.linspace(0, size - 1, min(PER_BAND, size)).round().astype(int))] if size else end


def _pictures(
    index: PictureIndex, sample: ScoreSample, column: str, rows: np.ndarray, truth: Truth | None
) -> list[Picture]:
    kinds = truth.kinds_of(sample.uids[rows]) if truth and len(rows) else [None] * len(rows)
    pictures = []
    for place, found in samples_of(index, sample.uids[rows]):
        try:
            image = decode_image(found.image)
        except ImageError:
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        score = float(sample.columns[column][rows[place]])
        caption = printable(found.caption, CAPTION_LENGTH)
        pictures.append(Picture(_data_uri(image), image.width, image.height, caption, score, kinds[place]))
    return pictures


def samples_of(index: PictureIndex, uids: np.ndarray) -> Iterator[tuple[int, Any]]:
    """(place in ``uids``, sample) of those that are in the pool's shards."""
    for place, row in enumerate(index.find(uids)):
        if row >= 0:
            yield place, index.read(int(row))


def printable(text: str, length: int) -> str:
    """``text`` without control characters (they could turn the direction of the page's text), cut to ``length``."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
