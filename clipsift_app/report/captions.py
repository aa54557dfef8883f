"""Captions and image sizes before and after the selection."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from clipsift_app.report.pictures import Pairs, evenly, printable
from clipsift_app.report.score_sample import ScoreSample

NUM_READ = 1000  # samples read from the pool, and again from the subset
NUM_WORDS = 10
MIN_WORD_COUNT = 5  # a word rarer than this in both has no frequency to speak of


@dataclass(frozen=True)
class SetStatistics:
    """What the captions and images of a set of samples are like.

    Attributes:
        num_samples: samples read.
        words: median number of words in a caption.
        characters: median number of characters.
        unique: share of captions that occur once among those read, in [0, 1].
        vocabulary: number of different words.
        pixels: median of the shorter side of the images; None when no image header can be read.
    """

    num_samples: int
    words: float
    characters: float
    unique: float
    vocabulary: int
    pixels: float | None


@dataclass(frozen=True)
class CaptionChange:
    """The pool against the subset.

    ``gained``: words, and how many times as frequent they are in the subset; ``lost``: the same for the pool.
    """

    pool: SetStatistics
    kept: SetStatistics
    gained: list[tuple[str, float]]
    lost: list[tuple[str, float]]


def caption_rows(sample: ScoreSample) -> tuple[np.ndarray, np.ndarray]:
    """At most :data:`NUM_READ` rows of the pool, and of the subset; none of either when the run kept all or nothing."""
    if sample.kept is None or sample.kept.all() or not sample.kept.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    kept = np.flatnonzero(sample.kept)
    return evenly(len(sample.uids), NUM_READ), kept[evenly(len(kept), NUM_READ)]


def caption_change(pairs: Pairs, before: np.ndarray, after: np.ndarray) -> CaptionChange | None:
    """Compare pairs of the pool with pairs of the subset; None when of one there are none."""
    pool, kept = ([found for _, found in pairs.read(rows)] for rows in (before, after))
    if not pool or not kept:
        return None
    gained, lost = _word_changes([found.caption for found in pool], [found.caption for found in kept])
    return CaptionChange(_statistics(pool), _statistics(kept), gained, lost)


def _words(caption: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", caption.lower())


def _statistics(samples: list[Any]) -> SetStatistics:
    captions = [found.caption for found in samples]
    words = [_words(caption) for caption in captions]
    repeats = Counter(captions)
    sides = [side for found in samples if (side := _shorter_side(found.image)) is not None]
    return SetStatistics(
        num_samples=len(captions),
        words=float(np.median([len(caption) for caption in words])),
        characters=float(np.median([len(caption) for caption in captions])),
        unique=sum(count == 1 for count in repeats.values()) / len(captions),
        vocabulary=len({word for caption in words for word in caption}),
        pixels=float(np.median(sides)) if sides else None,
    )


def _shorter_side(data: bytes) -> int | None:
    """From the image's header; nothing is decoded."""
    try:
        return min(Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")).size)
    except Exception:  # whatever a damaged header makes PIL raise: that image has no size
        return None


def _word_changes(before: list[str], after: list[str]) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The words whose share of captions grew, and shrank, by the largest factor."""
    counts = [Counter(word for caption in captions for word in set(_words(caption))) for captions in (before, after)]
    common = {word for count in counts for word, times in count.items() if times >= MIN_WORD_COUNT}
    # Half an occurrence is added to both, so that a word absent from one has a factor that is finite.
    factors = {
        word: (counts[1][word] + 0.5) / (len(after) + 1) * (len(before) + 1) / (counts[0][word] + 0.5)
        for word in sorted(common)
    }
    ranked = [(printable(word, 24), factor) for word, factor in sorted(factors.items(), key=lambda pair: -pair[1])]
    gained = [pair for pair in ranked[:NUM_WORDS] if pair[1] > 1]
    lost = [(word, 1 / factor) for word, factor in ranked[::-1][:NUM_WORDS] if factor < 1]
    return gained, lost
