"""Part 8: scores and methods on the device against the CPU's values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.kernel import features
from benchmarks.gpu.rows import Row, at_least, at_most, holds
from selection.kernels.kmeans import kmeans, nearest
from selection.kernels.moments import group_means
from selection.methods.semdedup import semdedup
from selection.methods.vas_d import vas_d
from selection.scores.clip_score import clip_score
from selection.scores.normsim import normsim
from selection.scores.s_cliploss import s_cliploss
from selection.scores.vas import second_moment, vas


def run(small: bool, folder: Path) -> Iterator[Row]:
    device = torch.device("cpu" if small else "cuda")
    rows, depth, targets = (600, 32, 50) if small else (100_000, 512, 5_000)
    here = [features(count, depth, torch.float16, torch.device("cpu"), seed) for seed, count in enumerate((rows, rows))]
    target = features(targets, depth, torch.float16, torch.device("cpu"), 2)
    image, text, goal = (part.to(device) for part in (*here, target))
    moment = second_moment(target)
    pairs = {
        "CLIPScore": (clip_score(image, text), clip_score(*here)),
        "s-CLIPLoss, one batch of 4,096": (
            s_cliploss(image[:4096], text[:4096], 0.01, None),
            s_cliploss(here[0][:4096], here[1][:4096], 0.01, None),
        ),
        "NormSim_2": (normsim(image, goal), normsim(here[0], target)),
        "NormSim_inf": (normsim(image, goal, float("inf")), normsim(here[0], target, float("inf"))),
        "VAS": (vas(image, moment.to(device)), vas(here[0], moment)),
    }
    for name, (found, expected) in pairs.items():
        yield at_most(f"{name}: largest difference", (found.cpu() - expected).abs().max().item(), 2e-4)
    some = slice(0, rows // 5)
    kept = [vas_d(part[some], rows // 20, 20).cpu() for part in (image, here[0])]
    yield at_least("VAS-D: share of the same samples", _shared(*kept), 0.995)
    labels = torch.arange(rows) % 7  # so that many threads add to the same rows
    means = [group_means(image, labels.to(device), 7).cpu() for _ in range(3)]
    yield holds("group means: the same bits each time", all(torch.equal(means[0], again) for again in means[1:]))
    difference = (means[0] - group_means(here[0], labels, 7)).abs().max().item()
    yield at_most("group means: largest difference", difference, 1e-6)
    nearest_here = nearest(here[0][some], target[:100].float() / 3)
    equal = nearest(image[some], goal[:100].float() / 3).cpu() == nearest_here  # thirds, which halves would round
    yield at_least("nearest centroids: share of the same", equal.float().mean().item(), 0.9999)
    # In clusters: between them a rounding would send a row to another centroid, and the rest after it.
    centres = 3 * here[1][:8].float()
    clustered = torch.nn.functional.normalize(here[0][some].float() + centres[labels[some] % 8], dim=1).half()
    centroids = [kmeans(part, 8, seed=0).cpu() for part in (clustered.to(device), clustered)]
    yield at_most("k-means: largest difference of a centroid", (centroids[0] - centroids[1]).abs().max().item(), 1e-3)
    masks = [semdedup(part, centroids[1].to(part.device), 0.5).cpu() for part in (clustered.to(device), clustered)]
    yield at_least("SemDeDup: share of equal verdicts", (masks[0] == masks[1]).float().mean().item(), 0.999)


def _shared(one: torch.Tensor, other: torch.Tensor) -> float:
    return len(set(one.tolist()) & set(other.tolist())) / len(one)
