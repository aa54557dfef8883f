"""DataComp's rules for captions and image sizes (Gadre et al. 2023, arXiv 2304.14108), as scores of 0 and 1.

Keep with ``threshold: 1``. The English test is part of both published filters and needs fastText's model, so
``language`` has no default: give the model file, or ``off``.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from clipsift_common.errors import ClipsiftError
from selection.features.language import Language, is_english
from selection.registry import FeatureBlock, register

MIN_SIDE = 200  # pixels
MAX_ASPECT = 3.0

_FASTTEXT_SPACE = re.compile(r"[ \n\r\t\v\f\0]+")  # fastText knows no other; a no-break space joins


@register("datacomp_basic", needs=())
def datacomp_basic(block: FeatureBlock, language: Language) -> Tensor:
    """The basic filter: more than 2 words and 5 characters, sides of 200 pixels and more, aspect up to 3, English."""
    captions = _captions(block)
    width, height = (_numbers(block, f"original_{side}") for side in ("width", "height"))
    small, large = np.minimum(width, height), np.maximum(width, height)
    kept = np.array([len(caption.split()) > 2 and len(caption) > 5 for caption in captions], bool)
    kept &= (small >= MIN_SIDE) & (large <= MAX_ASPECT * small)
    return _score(kept, captions, language)


@register("datacomp_caption", needs=())
def datacomp_caption(block: FeatureBlock, language: Language) -> Tensor:
    """The caption rule of the image-based filter: more than 1 word and 5 characters, English.

    Words are fastText's tokens: what stands between ASCII white space, and every newline is one by itself.
    """
    captions = _captions(block)
    kept = np.array([num_tokens(caption) > 1 and len(caption) > 5 for caption in captions], bool)
    return _score(kept, captions, language)


def num_tokens(caption: str) -> int:
    """The number of fastText's tokens in a caption."""
    return sum(1 for word in _FASTTEXT_SPACE.split(caption) if word) + caption.count("\n")


def _score(kept: np.ndarray, captions: list[str], language: Language) -> Tensor:
    chosen = np.flatnonzero(kept)  # the language of the others does not matter
    kept[chosen] = is_english([captions[row] for row in chosen], language)
    return torch.from_numpy(kept.astype(np.float32))


def _captions(block: FeatureBlock) -> list[str]:
    return ["" if caption is None else str(caption) for caption in _column(block, "text")]


def _numbers(block: FeatureBlock, name: str) -> np.ndarray:
    """float64; NaN, which passes no test, where there is none."""
    return np.asarray(_column(block, name), np.float64)


def _column(block: FeatureBlock, name: str) -> np.ndarray:
    if name not in block.columns:
        raise ClipsiftError(f"metadata has no column {name} (it has: {', '.join(block.columns) or 'none'})")
    return block.columns[name]
