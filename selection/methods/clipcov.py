"""ClipCov (Joshi et al. 2024, arXiv 2403.12267): a subset that keeps the cross-covariance of images and captions.

Samples fall into latent classes, those of a zero-shot classifier. A sample's score in class k of n_k samples, with
C_ij = image_i . text_j inside the class and C+ its positive part, is

    raw_i + 2 C_ii + l_i / 2 - (tic_i + itc_i)            raw_i = 1/n_k sum_j (C+_ij + C+_ji), l_i = image_i . label_k

(cross-covariance with the class, own similarity, label; less the similarity to other classes' centres). The greedy
takes the best of all remaining samples. When a class has made another ``block`` picks, one short of it the first time,
its scores fall by what the new picks cover, 1/n_k sum_{new} (C+_ij + C+_ji), and, for all samples of the class alike,
by 1/n_k sum raw over *all* its picks and 1/n_k sum l/2 over the new ones. In between, scores are stale. That is the
authors' notebook with block = 200.

The notebook loads these terms without computing them. Assumed here, as their names suggest: raw as above; centres are
plain means of a class, and tic, itc the mean products of a caption (image) with the image (caption) centres of the
other classes; the class is the zero-shot argmax.

Scores of one class do not depend on the picks of another, so the greedy over all samples is a merge of the classes'
own greedy sequences, always the best of their heads: it picks in the order of the largest of a sequence's keys so far,
where a key is (minus the score, index), smaller first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from clipsift_common.progress import track
from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_pair, check_same_width
from selection.kernels.class_greedy import ClassGreedy
from selection.kernels.moments import group_means
from selection.kernels.positive import PositiveSums
from selection.kernels.products import multiply
from selection.kernels.tiles import ROW_TILE, fill_rows, linear_tiles, tile_map, tiles
from selection.scores.clip_score import clip_score


@on_arrays
def clipcov(image: Tensor, text: Tensor, class_text: Tensor, size: int, block: int = 200) -> Tensor:
    """(size,) int64 indices in the order of selection.

    Args:
        image, text: (n, d) unit features.
        class_text: (k, d) unit text features of the classes' prompts; the paper has ImageNet's 1,000 classes.
        size: how many to select.
        block: picks of a class between two updates of its scores. 1 updates after every pick.

    Exact, but lazy: what the pairs of a large class add up to is worked out for samples that may be picked next, all
    others have bounds. Time O(d) times (the sum over classes of n_k times what it picks, and n d); memory O(n) and a
    copy of one class per thread beside the inputs: no matrix of a class is held.

    Raises:
        ValueError: shapes that do not fit, size or block out of range, a row that is not finite.
    """
    check_pair(image, text)
    check_features(class_text, "class_text")
    check_same_width(image, class_text, "class_text")
    if not 1 <= size <= len(image):
        raise ValueError(f"size {size} is outside 1..{len(image)}")
    if block < 1:
        raise ValueError(f"block must be positive, got {block}")
    terms = class_terms(image, text, class_text)

    def begin(part: Terms) -> ClassGreedy:
        sums = PositiveSums(image, text, torch.from_numpy(part.members).to(image.device))
        return ClassGreedy(part.fixed, part.label, sums, block)

    greedies = tile_map(begin, terms, image.device)
    return torch.from_numpy(merged([picks_of(greedy, part.members) for greedy, part in zip(greedies, terms)], size))


@dataclass(frozen=True)
class Terms:
    """What is known of a class's samples before any is picked but raw: (n,) float64 each, and which they are."""

    members: np.ndarray  # int64, ascending
    easiness: np.ndarray
    label: np.ndarray
    image_to_text_centres: np.ndarray
    text_to_image_centres: np.ndarray

    @property
    def fixed(self) -> np.ndarray:
        """(n,) the first scores, without raw."""
        return 2 * self.easiness + self.label / 2 - (self.text_to_image_centres + self.image_to_text_centres)


def class_terms(image: Tensor, text: Tensor, class_text: Tensor) -> list[Terms]:
    """Those of every class that has samples, from unit features: ``image``, ``text`` (n, d), ``class_text`` (k, d)."""
    classes, label = classify(image, class_text)
    present, labels = classes.unique(return_inverse=True)
    easiness = clip_score(image, text)
    centres = torch.stack([group_means(tower, labels, len(present)) for tower in (text, image)])
    to_text, to_image = (
        other_centres(tower, of_tower[labels], of_tower.sum(0), len(present))
        for tower, of_tower in zip((image, text), centres)
    )
    arrays = [values.cpu().double().numpy() for values in (easiness, label, to_text, to_image)]
    order = labels.argsort(stable=True).cpu().numpy()
    bounds = labels.bincount().cumsum(0)[:-1].tolist()
    return [Terms(part, *(values[part] for values in arrays)) for part in np.split(order, bounds)] if len(order) else []


def classify(image: Tensor, class_text: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) int64 zero-shot classes and (n,) float32 similarities to their text."""
    label = torch.empty(len(image), device=image.device)
    classes = torch.empty(len(image), dtype=torch.int64, device=image.device)

    def best(rows: slice) -> Tensor:
        found = multiply(image[rows], class_text.T).max(1)
        classes[rows] = found.indices
        return found.values

    fill_rows(label, best, tiles(len(image), ROW_TILE))
    return classes, label


def other_centres(features: Tensor, own: Tensor, of_all: Tensor, num_classes: int) -> Tensor:
    """(n,) mean inner product of each row with the centres of the classes that it is not in.

    ``own``: (n, d) or (d,) centres of the rows' own class; ``of_all``: (d,) sum of the centres of ``num_classes``.
    """

    def strip(rows: slice) -> Tensor:
        part = features[rows].float()
        return (part @ of_all - (part * (own[rows] if own.ndim == 2 else own)).sum(1)) / max(1, num_classes - 1)

    parts = linear_tiles(len(features), features.device)
    return fill_rows(torch.empty(len(features), device=features.device), strip, parts)


def picks_of(greedy: ClassGreedy, members: np.ndarray) -> Iterator[tuple[float, int]]:
    """Yield (minus its score when picked, its member) of a class's samples in the order in which its greedy picks."""
    while greedy.num_left:
        picks, scores = greedy.next_block()
        yield from zip((-scores).tolist(), members[picks].tolist())


def merged(sequences: list[Iterator[tuple[float, int]]], size: int) -> np.ndarray:
    """(size,) indices, always the best of the sequences' heads."""
    picks = track(islice(heapq.merge(*sequences), size), "clipcov", size, "samples", brief=True)
    return np.array([index for _, index in picks], np.int64)
