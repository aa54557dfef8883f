"""Pictures from the pool for the page: which ones, and small enough to be part of it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from clipsift_app.report.score_sample import ScoreSample
from clipsift_app.report.truth import Truth
from clipsift_common.images import ImageError, decode_image
from selection.pool.claimed.learning import Absent

PER_BAND = 6
BAND_SHARE = 0.02  # a band is the outermost 2 % of what was kept or dropped, so that it shows more than one outlier
THUMBNAIL = 192  # pixels of the longer side
CAPTION_LENGTH = 160

# title: kept, whether the band is at the upper end
BANDS = {
    "Best kept": (True, True),
    "Worst kept": (True, False),
    "Best dropped": (False, True),
    "Worst dropped": (False, False),
}


class PictureIndex(Protocol):
    """What of ``selection.index.PoolIndex`` is used here."""

    def find(self, uids: np.ndarray) -> np.ndarray: ...

    def read(self, row: int) -> Any: ...


@dataclass(frozen=True)
class Band:
    """Rows of a :class:`ScoreSample`, of falling score.

    ``kept``: whether they are among what was kept or dropped; None for both. ``notes``: one for each row, or none.
    """

    title: str
    column: str
    kept: bool | None
    rows: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One pair on the page; ``source`` is a data: URI, ``caption`` printable but otherwise as the web has it."""

    source: str
    width: int
    height: int
    caption: str
    score: float
    kind: str | None
    note: str = ""


class Pairs:
    """The pairs behind rows of a :class:`ScoreSample`: looked up in the pool at once, read one by one."""

    def __init__(self, index: PictureIndex, sample: ScoreSample, rows: Iterable[np.ndarray]) -> None:
        """``rows``: arrays of all rows that will be asked for."""
        wanted = np.unique(np.concatenate([np.empty(0, np.int64), *rows]))
        self._index = index
        self._places = dict(zip(wanted.tolist(), index.find(sample.uids[wanted]).tolist()))

    def read(self, rows: np.ndarray) -> Iterator[tuple[int, Any]]:
        """(row, pool's sample) of those ``rows`` that are in the pool's shards."""
        for row in rows.tolist():
            if self._places[row] >= 0:
                try:
                    found = self._index.read(self._places[row])
                except Absent:
                    continue
                yield row, found


def choose_bands(sample: ScoreSample, column: str, titles: Sequence[str] = tuple(BANDS)) -> list[Band]:
    """The bands ``titles`` of a score column; none of them when nothing has been selected yet."""
    if sample.kept is None:
        return []
    chosen = []
    for title in titles:
        kept, upper = BANDS[title]
        chosen.append(Band(title, column, kept, band_rows(sample.columns[column], sample.kept == kept, upper)))
    return chosen


def quantile_band(sample: ScoreSample, column: str, quantiles: Sequence[float]) -> Band:
    """The rows at ``quantiles`` (in [0, 1]) of a score over the whole pool, noting whether each was kept."""
    scores = sample.columns[column]
    rows = np.flatnonzero(np.isfinite(scores))
    rows = rows[np.argsort(scores[rows], kind="stable")]
    places = sorted({round(quantile * (len(rows) - 1)): quantile for quantile in quantiles}.items(), reverse=True)
    chosen = rows[[place for place, _ in places]] if len(rows) else rows
    notes = [
        f"quantile {quantile:.3g}" + ("" if sample.kept is None else ", kept" if sample.kept[row] else ", dropped")
        for row, (_, quantile) in zip(chosen, places)
    ]
    return Band("Across the pool, by quantile", column, None, chosen, tuple(notes))


def band_rows(scores: np.ndarray, among: np.ndarray, upper: bool) -> np.ndarray:
    """:data:`PER_BAND` rows, of falling score, evenly spread over one end of the scores of the rows ``among``.

    The end is the outermost :data:`BAND_SHARE`, or as many as are shown if that is more; its extreme row is included.
    """
    rows = np.flatnonzero(among & np.isfinite(scores))
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    size = min(len(rows), max(PER_BAND, round(len(rows) * BAND_SHARE)))
    end = rows[:size] if upper else rows[len(rows) - size :]
    return end[evenly(size, PER_BAND)]


def evenly(size: int, number: int) -> np.ndarray:
    """At most ``number`` distinct places out of ``size``, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, max(size - 1, 0), min(size, number)).round().astype(np.int64))


def pictures(pairs: Pairs, sample: ScoreSample, band: Band, truth: Truth | None) -> list[Picture]:
    """The pictures of a band; one that cannot be decoded is left out."""
    shown, notes = [], dict(zip(band.rows.tolist(), band.notes))
    for row, found in pairs.read(band.rows):
        try:
            image = decode_image(found.image)
        except ImageError:
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        score, kind = float(sample.columns[band.column][row]), truth.kinds_of(sample.uids[[row]])[0] if truth else None
        caption = printable(found.caption, CAPTION_LENGTH)
        source, note = _data_uri(image), notes.get(row, "")
        shown.append(Picture(source, image.width, image.height, caption, score, kind, note))
    return shown


def printable(text: str, length: int) -> str:
    """``text`` without control characters (they could turn the direction of the page's text), cut to ``length``."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
