"""Both log-sum-exps of a similarity matrix that is never held: the normalisers of the contrastive loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from selection.checks import check_pair, check_temperature
from selection.tiles import product_sums, product_tile, tile_map, tiles

# One exponential per element serves the row and the column sum, because both are taken against the same fixed offset:
# the largest logit that the norms allow becomes HEADROOM, so that nothing overflows. A sum that ends below
# exp(-HEADROOM) may have lost terms to underflow and is computed again with its own maximum. float32 holds
# exp(-87) to exp(88); with unit features at temperature 0.01 only a row whose every cosine is below -0.2 is that low.
HEADROOM = 60.0


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
    largest_logit = (image_norms.max() * text_norms.max()).item() / temperature
    offset = min(0.0, HEADROOM - largest_logit)
    row_sums, column_sums = product_sums(image, text, lambda logits: logits.add_(offset).exp_(), 1 / temperature)
    image_lse, text_lse = row_sums.log() - offset, column_sums.log() - offset
    for lse, sums, queries, keys in ((image_lse, row_sums, image, text), (text_lse, column_sums, text, image)):
        low = (sums < math.exp(-HEADROOM)).nonzero().squeeze(1)
        if len(low):
            lse[low] = _row_lse(queries[low], keys, temperature)
    return image_lse, text_lse


def _row_lse(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """(q,) log-sum-exp of each query over the keys, each tile against its own maximum."""
    row_tile, column_tile = product_tile(queries.device)
    columns = tiles(len(keys), column_tile)

    def strip(rows: slice) -> Tensor:
        scaled = queries[rows].float() * (1 / temperature)
        parts = [(scaled @ keys[part].float().T).logsumexp(1) for part in columns]
        return torch.stack(parts).logsumexp(0)

    return torch.cat(list(tile_map(strip, tiles(len(queries), row_tile), queries.device)))
