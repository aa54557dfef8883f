"""s-CLIPLoss, or negCLIPLoss (Wang et al. 2024, arXiv 2405.19547): CLIPScore minus what any partner would have got.

With unit features f (image) and g (text), temperature t and a batch B that holds sample i:

    score_i = f_i.g_i - t/2 [ log sum_{j in B} exp(f_i.g_j / t) + log sum_{j in B} exp(f_j.g_i / t) ]

which is -t times sample i's symmetric CLIP loss in B, so at most 0. Over random batches the logs are averaged, not the
sums. The paper's published version calls the negative of this s-CLIPLoss and keeps the lowest; here higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_temperature
from selection.kernels.logsumexp import Pairs, bank_normaliser
from selection.kernels.transfer import sent
from selection.options import PositiveFloat, PositiveInt, Range
from selection.registry import FeatureBlock, register
from selection.scores.clip_score import row_products


@on_arrays
def s_cliploss(
    image: Tensor,
    text: Tensor,
    temperature: float = 0.01,
    batch_size: int | None = 32768,
    num_batches: int = 10,
    seed: int = 0,
    short_last_batch: bool = False,
    bank_size: int | None = None,
) -> Tensor:
    """(n,) float32 scores: minus temperature times the CLIP loss, averaged over ``num_batches`` random partitions.

    Args:
        image, text: (n, d) unit features.
        temperature: the teacher's; 0.01 for OpenAI's CLIP, 0.07 for the public DFN.
        batch_size: samples per batch; None, or more than there are: one batch of all. In a smaller batch the
            log-sum-exp is lower by about the log of the ratio, which favours its members by temperature times that.
            So all batches are of this size: what is left over at the end is filled up with samples of other batches,
            which take part in its sums and are not scored again.
        num_batches: batches that each sample is scored in (the paper's K).
        seed: with the repetition's number it fixes the partition.
        short_last_batch: leave the last batch short, as the authors' code does.
        bank_size: instead of in batches, score every sample against one random bank of so many (at most n), the same
            for all, with its sums brought to ``batch_size`` (:func:`s_cliploss_bank`). A bank of
            ``num_batches * batch_size / 2`` costs as many products as the batches. At that cost batches are nearer to
            the paper's score for a temperature of 0.01, and the two are alike for 0.07 (benchmarks/bank.py).

    Raises:
        ValueError: shapes differ, a row is not finite, or a number is not positive.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if num_batches < 1:
        raise ValueError(f"num_batches must be positive, got {num_batches}")
    if bank_size is not None:
        if bank_size < 2:
            raise ValueError(f"bank_size must be at least 2, got {bank_size}")
        batch_size = len(image) if batch_size is None else min(batch_size, len(image))
        bank = _random_order(len(image), seed, 0)[:bank_size]
        return s_cliploss_bank(image, text, bank, temperature, batch_size)
    if batch_size is None or batch_size >= len(image):  # every partition is the same one
        return s_cliploss_over(image, text, temperature, [[slice(None)]])
    partitions = random_partitions(len(image), batch_size, num_batches, seed, short_last_batch)
    return s_cliploss_over(image, text, temperature, partitions)


def s_cliploss_over(
    image: Tensor, text: Tensor, temperature: float, partitions: Iterable[Sequence[Tensor | slice]]
) -> Tensor:
    """(n,) scores averaged over ``partitions``, each a list of batches of indices that cover all samples.

    A sample that is in several batches of a partition is scored in the first of them.
    """
    check_temperature(temperature)
    pairs = Pairs.prepare(image, text)
    cosine = row_products(image, text)
    total, count = torch.zeros_like(cosine), 0
    for batches in partitions:
        normaliser = torch.empty_like(cosine)
        for batch in reversed(batches):
            batch = batch if isinstance(batch, slice) else sent(batch, image.device)
            image_lse, text_lse = pairs.normaliser(batch, temperature)
            normaliser[batch] = image_lse + text_lse
        total += normaliser
        count += 1
    return cosine - total * (temperature / 2 / count)


def random_partitions(
    num_samples: int, batch_size: int, num_batches: int, seed: int, short_last_batch: bool = False
) -> Iterator[list[Tensor]]:
    """Yield ``num_batches`` random partitions of ``range(num_samples)`` into batches of ``batch_size`` indices.

    What is left at the end is a batch filled up with the first of the same partition, or, with ``short_last_batch``,
    a shorter one.
    """
    batch_size = min(batch_size, num_samples)
    for repetition in range(num_batches):
        order = _random_order(num_samples, seed, repetition)
        batches = list(order.split(batch_size))
        missing = 0 if short_last_batch else batch_size - len(batches[-1])
        batches[-1] = torch.cat([batches[-1], order[:missing]])
        yield batches


def _random_order(num_samples: int, seed: int, repetition: int) -> Tensor:
    """A permutation: raw numbers, sorted, are the same in every version of numpy, which its shuffles may not be."""
    numbers = np.random.PCG64(np.random.SeedSequence([seed, repetition])).random_raw(num_samples)
    return torch.from_numpy(np.argsort(numbers, kind="stable"))


def s_cliploss_bank(image: Tensor, text: Tensor, bank: Tensor, temperature: float, batch_size: int) -> Tensor:
    """(n,) scores of every sample against the same ``bank``, indices of at least 2 of them.

    A sample's sum over a batch, its own pair and ``batch_size - 1`` others, is estimated by its own pair and
    ``batch_size - 1`` times the mean over the bank's others. So the score does not depend on the bank's size but for
    noise; it is the log of a mean, where random batches give the mean of logs.
    """
    bank = sent(bank, image.device)
    lse = bank_normaliser(image, text, image[bank], text[bank], temperature)
    cosine = row_products(image, text)
    own = cosine / temperature
    num_others = torch.full_like(cosine, len(bank))
    num_others[bank] -= 1
    in_bank = num_others < len(bank)
    total = torch.zeros_like(cosine)
    for over_bank in lse:
        without = over_bank + torch.log1p(-(own - over_bank).clamp(max=0).exp())
        others = torch.where(in_bank, without, over_bank)
        total += torch.logaddexp(own, others + math.log(batch_size - 1) - num_others.log())
    return cosine - total * (temperature / 2)


@register("s_cliploss")
def s_cliploss_column(
    block: FeatureBlock,
    temperature: PositiveFloat = 0.01,
    batch_size: PositiveInt | None = 32768,
    num_batches: PositiveInt = 10,
    short_last_batch: bool = False,
    bank_size: Annotated[int, Range(2)] | None = None,
) -> Tensor:
    options = (temperature, batch_size, num_batches, block.seed, short_last_batch, bank_size)
    return s_cliploss(block.image, block.text, *options)
