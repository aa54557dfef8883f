"""Both log-sum-exps of a similarity matrix that is never held: the normalisers of the contrastive loss."""

from __future__ import annotations

import importlib.util
import math
from functools import cache

import torch
from torch import Tensor

from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_pair, check_same_width, check_temperature
from selection.kernels.tiles import fill_rows, product_sums, product_tiles, row_tiles

# One exponential per element serves the row and the column sum, because both are taken against the same fixed offset:
# the largest logit that the norms allow becomes HEADROOM, so that nothing overflows. A sum that ends below
# exp(-HEADROOM) may have lost terms to underflow and is computed again with its own maximum. float32 holds
# exp(-87) to exp(88); with unit features at temperature 0.01 only a row whose every cosine is below -0.2 is that low.
HEADROOM = 60.0


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
    image_norms, text_norms = check_pair(image, text)
    if len(image) == 0:
        return image_norms, text_norms
    return _both_lse(image, text, temperature, (image_norms.max() * text_norms.max()).item())


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
    image_lse, _ = _both_lse(image, bank_text, temperature, largest[0] * largest[3])
    text_lse, _ = _both_lse(text, bank_image, temperature, largest[1] * largest[2])
    return image_lse, text_lse


def _both_lse(a: Tensor, b: Tensor, temperature: float, largest_product: float) -> tuple[Tensor, Tensor]:
    """Row (n,) and column (m,) log-sum-exp of ``a @ b.T / temperature``."""
    offset = min(0.0, HEADROOM - largest_product / temperature)
    row_sums, column_sums = _exp_sums(a, b, 1 / temperature, offset)
    row_lse, column_lse = row_sums.log() - offset, column_sums.log() - offset
    for lse, sums, queries, keys in ((row_lse, row_sums, a, b), (column_lse, column_sums, b, a)):
        low = (sums < math.exp(-HEADROOM)).nonzero().squeeze(1)
        if len(low):
            lse[low] = _row_lse(queries[low], keys, temperature)
    return row_lse, column_lse


def _exp_sums(a: Tensor, b: Tensor, scale: float, offset: float) -> tuple[Tensor, Tensor]:
    """Row and column sums of ``exp(scale * a @ b.T + offset)``, by the fused kernel where it applies."""
    if a.is_cuda and triton_available():
        halves = lossless_half(a, b)
        if halves is not None:
            from selection.kernels.logsumexp_triton import exp_sums  # here: needs Triton

            return exp_sums(*halves, scale, offset)
    return product_sums(a, b, lambda logits: logits.add_(offset).exp_(), scale)


@cache
def triton_available() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def lossless_half(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor] | None:
    """``a`` and ``b`` in the same 16-bit dtype if that loses nothing, as for DataComp's features, which are fp16."""
    if a.dtype == b.dtype == torch.bfloat16:
        return a, b
    a_half, b_half = a.half(), b.half()
    if torch.equal(a_half.to(a.dtype), a) and torch.equal(b_half.to(b.dtype), b):
        return a_half, b_half
    return None


def _row_lse(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """(q,) log-sum-exp of each query over the keys, each tile against its own maximum."""

    def strip(rows: slice) -> Tensor:
        scaled = queries[rows].float() * (1 / temperature)
        parts = [products.logsumexp(1) for _, products in product_tiles(scaled, keys)]
        return torch.stack(parts).logsumexp(0)

    return fill_rows(torch.empty(len(queries), device=queries.device), strip, row_tiles(queries))
