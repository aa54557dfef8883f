"""Both log-sum-exps of a similarity matrix that is never held: the normalisers of the contrastive loss."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_pair, check_same_width, check_temperature, taken_for_unit
from selection.kernels.products import HALVES, product_sums, product_tiles, row_tiles
from selection.kernels.tiles import fill_rows

# One exponential per element serves the row and the column sum, because both are taken against the same fixed offset:
# the largest logit that the norms allow becomes HEADROOM, so that nothing overflows. A sum that ends below
# exp(-HEADROOM) may have lost terms to underflow and is computed again with its own maximum. float32 holds
# exp(-87) to exp(88); with unit features at temperature 0.01 only a row whose every cosine is below -0.2 is that low.
HEADROOM = 60.0
_UNIT_PRODUCT = 1.01  # no product of rows that are of unit length but for rounding to halves is above


@on_arrays
def contrastive_normaliser(image: Tensor, text: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Row and column log-sum-exp of ``image @ text.T / temperature``.

    Args:
        image: (n, d) features, any floating dtype, any norm; usually unit rows.
        text: (n, d) features of the same samples.
        temperature: positive; the inverse of CLIP's logit scale.

    Returns:
        ``image_lse`` (n,) and ``text_lse`` (n,), float32: over all texts for each image, over all images for each text.
        Accumulated in float32 in memory O(n). On the CPU the same bits for any number of threads.

    Raises:
        ValueError: shapes differ, the temperature is not positive, or a row is not finite.
    """
    check_temperature(temperature)
    return Pairs.prepare(image, text).normaliser(slice(None), temperature)


@dataclass(frozen=True)
class Pairs:
    """Features of n samples that are compared batch by batch: checked, measured and, on a GPU, halved but once.

    ``largest`` is the largest product of an image's and a text's norm. It is looked at on a GPU alone, where a batch's
    own would have to be waited for; on the CPU, where nothing is, that one fits the batch better.
    """

    image: Tensor
    text: Tensor
    norms: tuple[Tensor, Tensor]
    largest: float

    @classmethod
    def prepare(cls, image: Tensor, text: Tensor) -> Pairs:
        """Raises ValueError if the shapes, (n, d), differ or a row is not finite."""
        norms = check_pair(image, text)
        largest = _UNIT_PRODUCT if taken_for_unit(image) else _largest_product(*norms)
        return cls(*lossless_halves(image, text), norms, largest)

    def normaliser(self, batch: Tensor | slice, temperature: float) -> tuple[Tensor, Tensor]:
        """:func:`contrastive_normaliser` over the samples of ``batch``, indices on the features' device."""
        image, text = self.image[batch], self.text[batch]
        if len(image) == 0:
            return self.norms[0][batch], self.norms[1][batch]
        largest = self.largest if image.is_cuda else _largest_product(*(norm[batch] for norm in self.norms))
        return _both_lse(image, text, temperature, largest)


def _largest_product(a_norms: Tensor, b_norms: Tensor) -> float:
    return (a_norms.max() * b_norms.max()).item() if len(a_norms) else 0.0


def bank_normaliser(
    image: Tensor, text: Tensor, bank_image: Tensor, bank_text: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """(n,) float32 log-sum-exps over a bank of m other samples: its texts for each image, its images for each text.

    ``image`` and ``text`` are (n, d), ``bank_image`` and ``bank_text`` (m, d), m at least 1. Raises ValueError as
    :func:`contrastive_normaliser` does.
    """
    check_temperature(temperature)
    norms = (*check_pair(image, text), *check_pair(bank_image, bank_text))
    check_same_width(image, bank_image, "bank")
    if len(bank_image) == 0:
        raise ValueError("bank is empty")
    if len(image) == 0:
        return norms[0], norms[1]
    largest = [norm.max().item() for norm in norms]
    image_lse, _ = _both_lse(*lossless_halves(image, bank_text), temperature, largest[0] * largest[3])
    text_lse, _ = _both_lse(*lossless_halves(text, bank_image), temperature, largest[1] * largest[2])
    return image_lse, text_lse


def _both_lse(a: Tensor, b: Tensor, temperature: float, largest_product: float) -> tuple[Tensor, Tensor]:
    """Row (n,) and column (m,) log-sum-exp of ``a @ b.T / temperature``."""
    offset = min(0.0, HEADROOM - largest_product / temperature)
    row_sums, column_sums = _exp_sums(a, b, 1 / temperature, offset)
    sums = torch.cat([row_sums, column_sums])
    row_lse, column_lse = (sums.log() - offset).split([len(a), len(b)])
    lowest = math.exp(-HEADROOM)
    if sums.min().item() < lowest:  # all that a GPU is waited for
        for lse, part, queries, keys in ((row_lse, row_sums, a, b), (column_lse, column_sums, b, a)):
            low = (part < lowest).nonzero().squeeze(1)
            if len(low):
                lse[low] = _row_lse(queries[low], keys, temperature)
    return row_lse, column_lse


def _exp_sums(a: Tensor, b: Tensor, scale: float, offset: float) -> tuple[Tensor, Tensor]:
    """Row and column sums of ``exp(scale * a @ b.T + offset)``, by the fused kernel where it applies."""
    if a.is_cuda and a.dtype == b.dtype and a.dtype in HALVES and triton_available():
        from selection.kernels.logsumexp_triton import exp_sums  # here: needs Triton

        return exp_sums(a, b, scale, offset)
    return product_sums(a, b, lambda logits: logits.add_(offset).exp_(), scale)


@cache
def triton_available() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def lossless_halves(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a`` and ``b`` in fp16 if they are on a GPU and lose nothing by it, as DataComp's features; else as they are."""
    if not a.is_cuda or (a.dtype == b.dtype and a.dtype in HALVES) or taken_for_unit(a):
        return a, b
    halves = a.half(), b.half()
    return halves if all(torch.equal(half.to(whole.dtype), whole) for half, whole in zip(halves, (a, b))) else (a, b)


def _row_lse(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """(q,) log-sum-exp of each query over the keys, each tile against its own maximum."""

    def strip(rows: slice) -> Tensor:
        scaled = queries[rows].float() * (1 / temperature)
        parts = [products.logsumexp(1) for _, products in product_tiles(scaled, keys)]
        return torch.stack(parts).logsumexp(0)

    return fill_rows(torch.empty(len(queries), device=queries.device), strip, row_tiles(queries))
