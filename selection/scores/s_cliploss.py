"""s-CLIPLoss, or negCLIPLoss (Wang et al. 2024, arXiv 2405.19547): CLIPScore minus what any partner would have got.

With unit features f (image) and g (text), temperature t and a batch B that holds sample i:

    score_i = f_i.g_i - t/2 [ log sum_{j in B} exp(f_i.g_j / t) + log sum_{j in B} exp(f_j.g_i / t) ]

which is -t times sample i's symmetric CLIP loss in B, so at most 0. Over random batches the logs are averaged, not the
sums. The paper's published version calls the negative of this s-CLIPLoss and keeps the lowest; here higher is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from selection.checks import check_temperature
from selection.logsumexp import contrastive_normaliser
from selection.scores import FeatureBlock, register
from selection.scores.clip_score import clip_score


def s_cliploss(
    image: Tensor,
    text: Tensor,
    temperature: float = 0.01,
    batch_size: int | None = 32768,
    num_batches: int = 10,
    seed: int = 0,
    short_last_batch: bool = False,
) -> Tensor:
    """(n,) float32 scores: minus temperature times the CLIP loss, averaged over ``num_batches`` random partitions.

    Args:
        image, text: (n, d) unit features.
        temperature: the teacher's; 0.01 for OpenAI's CLIP, 0.07 for the public DFN.
        batch_size: samples per batch at most; None: one batch of all. n samples make ceil(n / batch_size) batches of
            equal size (or one apart): in a smaller batch the log-sum-exp is lower by about log of the ratio, which
            would favour its members.
        num_batches: batches that each sample is scored in (the paper's K).
        seed: with the repetition's number it fixes the partition.
        short_last_batch: cut into batches of exactly ``batch_size`` and a shorter last one, as the authors' code does.

    Raises:
        ValueError: shapes differ, a row is not finite, or a number is not positive.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if num_batches < 1:
        raise ValueError(f"num_batches must be positive, got {num_batches}")
    if batch_size is None or batch_size >= len(image):  # every partition is the same one
        return s_cliploss_over(image, text, temperature, [[slice(None)]])
    partitions = random_partitions(len(image), batch_size, num_batches, seed, short_last_batch)
    return s_cliploss_over(image, text, temperature, partitions)


def s_cliploss_over(
    image: Tensor, text: Tensor, temperature: float, partitions: Iterable[Sequence[Tensor | slice]]
) -> Tensor:
    """(n,) scores averaged over ``partitions``: each a list of batches, indices that cover every sample once."""
    check_temperature(temperature)
    cosine = clip_score(image, text)
    total, count = torch.zeros_like(cosine), 0
    for batches in partitions:
        for batch in batches:
            image_lse, text_lse = contrastive_normaliser(image[batch], text[batch], temperature)
            total[batch] += image_lse + text_lse
        count += 1
    return cosine - total * (temperature / 2 / count)


def random_partitions(
    num_samples: int, batch_size: int, num_batches: int, seed: int, short_last_batch: bool = False
) -> Iterator[list[Tensor]]:
    """Yield ``num_batches`` random partitions of ``range(num_samples)`` into batches of indices.

    Sorting a bit generator's raw numbers gives the same order in every version of numpy, which its shuffles may not.
    """
    for repetition in range(num_batches):
        numbers = np.random.PCG64(np.random.SeedSequence([seed, repetition])).random_raw(num_samples)
        order = torch.from_numpy(np.argsort(numbers, kind="stable"))
        if short_last_batch:
            yield list(order.split(batch_size))
        else:
            yield list(order.tensor_split(-(-num_samples // batch_size)))


@register("s_cliploss")
def s_cliploss_column(
    block: FeatureBlock,
    temperature: float = 0.01,
    batch_size: int | None = 32768,
    num_batches: int = 10,
    short_last_batch: bool = False,
) -> Tensor:
    return s_cliploss(block.image, block.text, temperature, batch_size, num_batches, block.seed, short_last_batch)
