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
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from clipsift_common.progress import track
from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_pair, check_same_width
from selection.kernels.moments import group_means
from selection.kernels.products import multiply, product_sums
from selection.kernels.tiles import ROW_TILE, fill_rows, linear_tiles, tile_map, tiles
from selection.options import PositiveInt
from selection.registry import Candidates, indices_to_mask, register_method
from selection.scores.clip_score import clip_score


@on_arrays
def clipcov(image: Tensor, text: Tensor, class_text: Tensor, size: int, block: int = 200) -> Tensor:
    """(size,) int64 indices in the order of selection.

    Args:
        image, text: (n, d) unit features.
        class_text: (k, d) unit text features of the classes' prompts; the paper has ImageNet's 1,000 classes.
        size: how many to select.
        block: picks of a class between two updates of its scores. 1 updates after every pick, by a lazy greedy: a
            score only falls, so a sample is looked at again no sooner than it comes to the top.

    Time O(d) times (the sum of squared class sizes + n picks), memory O(n) and a copy of one class per thread beside
    the inputs: no matrix of a class is held.

    Raises:
        ValueError: shapes that do not fit, size or block out of range, a row that is not finite.
    """
    terms = ClipCovTerms.compute(image, text, class_text)
    if not 1 <= size <= len(image):
        raise ValueError(f"size {size} is outside 1..{len(image)}")
    if block == 1:
        return torch.from_numpy(_merged([_lazy_sequence(terms, part, image, text) for part in terms.members], size))

    def covered(members: np.ndarray, picks: np.ndarray) -> np.ndarray:
        rows, new = torch.from_numpy(members).to(image.device), torch.from_numpy(picks).to(image.device)

        def strip(part: slice) -> Tensor:
            by_image = multiply(image[rows[part]], text[new].T)
            by_text = multiply(text[rows[part]], image[new].T)
            return _positive(by_image).sum(1) + _positive(by_text).sum(1)

        sums = fill_rows(torch.empty(len(rows), device=image.device), strip, linear_tiles(len(rows), image.device))
        return sums.cpu().double().numpy()

    return torch.from_numpy(greedy(terms, covered, size, block))


@dataclass(frozen=True)
class ClipCovTerms:
    """What the greedy starts from, (n,) each: the class of each sample and the float64 terms of its score."""

    classes: np.ndarray
    raw: np.ndarray
    easiness: np.ndarray
    label: np.ndarray
    image_to_text_centres: np.ndarray
    text_to_image_centres: np.ndarray

    @cached_property
    def score(self) -> np.ndarray:
        centres = self.text_to_image_centres + self.image_to_text_centres
        return self.raw + 2 * self.easiness + self.label / 2 - centres

    @cached_property
    def members(self) -> list[np.ndarray]:
        """Ascending sample indices of every class that has any."""
        order = self.classes.argsort(kind="stable")
        return [part for part in np.split(order, np.bincount(self.classes).cumsum()[:-1]) if len(part)]

    @classmethod
    def compute(cls, image: Tensor, text: Tensor, class_text: Tensor) -> ClipCovTerms:
        """All terms from unit features: ``image``, ``text`` (n, d), ``class_text`` (k, d)."""
        check_pair(image, text)
        check_features(class_text, "class_text")
        check_same_width(image, class_text, "class_text")
        label = torch.empty(len(image), device=image.device)
        classes = torch.empty(len(image), dtype=torch.int64, device=image.device)

        def classify(rows: slice) -> Tensor:
            best = multiply(image[rows], class_text.T).max(1)
            classes[rows] = best.indices
            return best.values

        fill_rows(label, classify, tiles(len(image), ROW_TILE))
        terms = (
            _cross_similarity(image, text, classes),
            clip_score(image, text),
            label,
            _other_centres(image, text, classes),
            _other_centres(text, image, classes),
        )
        return cls(classes.cpu().numpy(), *(term.cpu().double().numpy() for term in terms))


def greedy(
    terms: ClipCovTerms, covered: Callable[[np.ndarray, np.ndarray], np.ndarray], size: int, block: int
) -> np.ndarray:
    """(size,) indices in order; ``covered(members, picks)`` is each member's sum of C+_ij + C+_ji over the picks j.

    Scores of one class do not depend on the picks of another, so the greedy over all samples is a merge of the classes'
    own greedy sequences by their heads, and an update sorts one class instead of the pool.
    """
    if block < 1:
        raise ValueError(f"block must be positive, got {block}")
    return _merged([_class_sequence(terms, members, covered, block) for members in terms.members], size)


def _merged(sequences: list[Iterator[tuple[float, int]]], size: int) -> np.ndarray:
    """(size,) indices, always the best of the sequences' heads."""
    picks = track(islice(heapq.merge(*sequences), size), "clipcov", size, "samples", brief=True)
    return np.array([index for _, index in picks], np.int64)


def _class_sequence(
    terms: ClipCovTerms, members: np.ndarray, covered: Callable[[np.ndarray, np.ndarray], np.ndarray], block: int
) -> Iterator[tuple[float, int]]:
    """Yield (minus its score when picked, index) of a class's samples in the order in which its greedy picks them."""
    remaining, scores = members, terms.score[members]
    num_picked, raw_picked = 0, 0.0
    while len(remaining):
        order = np.lexsort((remaining, -scores))[: block - (num_picked + 1) % block]
        picks = remaining[order]
        yield from zip((-scores[order]).tolist(), picks.tolist())
        num_picked += len(picks)
        raw_picked += terms.raw[picks].sum()
        remaining, scores = np.delete(remaining, order), np.delete(scores, order)
        if len(remaining):
            shared = raw_picked + terms.label[picks].sum() / 2
            scores -= (covered(remaining, picks) + shared) / len(members)


def _lazy_sequence(
    terms: ClipCovTerms, members: np.ndarray, image: Tensor, text: Tensor
) -> Iterator[tuple[float, int]]:
    """What ``_class_sequence`` yields with block 1; a score is brought up to date only at the top of the heap."""
    heap = list(zip((-terms.score[members]).tolist(), members.tolist(), [0] * len(members)))
    heapq.heapify(heap)
    picked_image, picked_text = (image.new_empty(0, image.shape[1], dtype=torch.float32) for _ in range(2))
    num_picked, raw_picked, shared = 0, 0.0, 0.0
    while heap:
        minus_score, index, num_seen = heapq.heappop(heap)
        own_image, own_text = image[index].float(), text[index].float()
        if num_seen < num_picked:
            unseen = slice(num_seen, num_picked)
            by_image, by_text = picked_text[unseen] @ own_image, picked_image[unseen] @ own_text
            covered = (_positive(by_image).sum() + _positive(by_text).sum()).item()
            heapq.heappush(heap, (minus_score + covered / len(members), index, num_picked))
            continue
        yield minus_score + shared / len(members), index
        if num_picked == len(picked_image):
            room = picked_image.new_empty(max(16, num_picked), image.shape[1])
            picked_image, picked_text = torch.cat([picked_image, room]), torch.cat([picked_text, room])
        picked_image[num_picked], picked_text[num_picked] = own_image, own_text
        num_picked += 1
        raw_picked += terms.raw[index]
        shared += raw_picked + terms.label[index] / 2


def _cross_similarity(image: Tensor, text: Tensor, classes: Tensor) -> Tensor:
    """(n,) mean over the row's class of C+_ij + C+_ji."""
    members = classes.argsort(stable=True).split(classes.unique(return_counts=True)[1].tolist())
    sums = tile_map(lambda rows: sum(product_sums(image[rows], text[rows], _positive)), members, image.device)
    raw = torch.empty(len(image), device=image.device)
    for rows, total in zip(members, sums):
        raw[rows] = total / len(rows)
    return raw


def _positive(similarities: Tensor) -> Tensor:
    return similarities.clamp_(min=0)


def _other_centres(features: Tensor, others: Tensor, classes: Tensor) -> Tensor:
    """(n,) mean inner product of each row with the centres, in ``others``, of the classes that it is not in."""
    present, labels = classes.unique(return_inverse=True)
    centres = group_means(others, labels, len(present))
    of_all = centres.sum(0)

    def strip(rows: slice) -> Tensor:
        own = features[rows].float()
        return (own @ of_all - (own * centres[labels[rows]]).sum(1)) / max(1, len(present) - 1)

    return fill_rows(
        torch.empty(len(features), device=features.device), strip, linear_tiles(len(features), features.device)
    )


@register_method("clipcov", needs=("image", "text"))
def clipcov_method(candidates: Candidates, size: int, classes: str, block: PositiveInt = 200) -> Tensor:
    """``classes`` names the classes' text features as a target: a ``.npy`` of (classes, d)."""
    kept = clipcov(candidates.image, candidates.text, candidates.target(classes), size, block)
    return indices_to_mask(kept, len(candidates))
