"""s-CLIPLoss against one fixed bank of samples beside random batches of equal cost: ``python benchmarks/bank.py``.

Which of the two is nearer to the paper's score, the average over very many random batches, when both may compute as
many inner products? Features are made here to look like CLIP's: two cones, clusters with a long tail, a few mismatched
pairs; the line before the table says how their cosines lie. ``spearman`` and ``top 30 %`` (Jaccard index of the two
kept sets) compare with the average over ``--reference`` batches of another seed; ``seeds`` is the Jaccard index
between two seeds of the estimate itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this folder would hide the package selection

from benchmarks.measure import describe_machine
from clipsift_app.report.agreement import agreement
from selection import s_cliploss

KEEP = 0.3
REFERENCE_SEED = 1_000_003


def clip_like(num: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(num, width) image and text features: what they share is a cluster of Zipf-like size and an own direction."""
    generator = torch.Generator().manual_seed(seed)

    def noise(count: int) -> Tensor:
        return torch.randn(count, width, generator=generator) / width**0.5

    num_clusters = num // 40
    sizes = 1 / torch.arange(1, num_clusters + 1)
    cluster = torch.multinomial(sizes, num, replacement=True, generator=generator)
    shared = 0.8 * noise(num_clusters)[cluster] + 0.5 * noise(num)
    other = torch.where(
        torch.rand(num, generator=generator) < 0.05, torch.randint(num, (num,), generator=generator), torch.arange(num)
    )
    cone = noise(1)
    spread = 0.6 + 0.8 * torch.rand(num, 1, generator=generator)  # some captions say more of their picture than others
    image = 0.5 * cone + noise(1) + 0.6 * shared + 0.7 * noise(num)
    text = 0.5 * cone + noise(1) + 0.6 * shared[other] + 0.6 * spread * noise(num)
    return torch.nn.functional.normalize(image, dim=1), torch.nn.functional.normalize(text, dim=1)


def report(name: str, cost: float, estimate: Callable[[int], Tensor], reference: Tensor) -> None:
    start = time.perf_counter()
    first = estimate(0)
    seconds = time.perf_counter() - start
    second = estimate(1)
    found = agreement({"first": first.numpy(), "second": second.numpy(), "reference": reference.numpy()}, KEEP)
    assert found is not None
    rank, top = found.correlation[:2, 2].mean(), found.overlap[:2, 2].mean()
    print(f"{name:24} {cost:8.3g} {seconds:8.1f} {rank:10.5f} {top:9.4f} {found.overlap[0, 1]:8.4f}", flush=True)


def compare(image: Tensor, text: Tensor, temperature: float, batch_size: int, counts: list[int], many: int) -> None:
    """Print the table for one temperature."""

    def batches(num_batches: int) -> Callable[[int], Tensor]:
        return lambda seed: s_cliploss(image, text, temperature, batch_size, num_batches, seed)

    def bank(size: int) -> Callable[[int], Tensor]:
        return lambda seed: s_cliploss(image, text, temperature, batch_size, 1, seed, bank_size=size)

    reference = batches(many)(REFERENCE_SEED)
    cosine = (image * text).sum(1)
    print(f"\ntemperature {temperature}, batches of {batch_size:,}, reference: {many} batches")
    print(f"{'':24} {'products':>8} {'seconds':>8} {'spearman':>10} {'top 30 %':>9} {'seeds':>8}")
    report("CLIPScore", 0, lambda seed: cosine, reference)
    for count in counts:
        cost = count * batch_size * len(image)
        report(f"{count} batches", cost, batches(count), reference)
        size = count * batch_size // 2  # two products of the bank's size instead of one of the batch's
        if size <= len(image):
            report(f"bank of {size:,}", cost, bank(size), reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_240)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 5, 10, 20])
    parser.add_argument("--reference", type=int, default=64)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.01, 0.07])
    options = parser.parse_args()
    print(describe_machine())
    image, text = clip_like(options.samples, options.width)
    matched, others = (image * text).sum(1), (image * text.roll(1, 0)).sum(1)
    print(
        f"{options.samples:,} pairs of width {options.width}; cosines of pairs {matched.mean():.3f} "
        f"(sd {matched.std():.3f}), of others {others.mean():.3f} (sd {others.std():.3f})"
    )
    for temperature in options.temperatures:
        compare(image, text, temperature, options.batch_size, options.batches, options.reference)


if __name__ == "__main__":
    main()
