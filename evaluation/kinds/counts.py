"""Whole-number counts that add up over batches and ranks, and the metrics they give."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from evaluation.data.tars import MAX_GROUPS


def label_ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """How many classes come before the label: 0 means predicted. Ties go to the lower class number.

    Args:
        logits: (n, c).
        labels: (n,) whole numbers; one that is not below c comes after all classes.
    """
    num_classes = logits.shape[1]
    within = labels.clamp(max=num_classes - 1)[:, None]
    own = logits.gather(1, within)
    earlier = torch.arange(num_classes, device=logits.device) < within
    ranks = ((logits > own) | ((logits == own) & earlier)).sum(1)
    return torch.where(labels < num_classes, ranks, num_classes)


class ClassCounts(Metric):
    """Per class: samples, samples with the label first and among the first five, predictions.

    Args:
        num_classes: of the labels; there may be fewer columns of logits (a dropped class).
    """

    full_state_update = False
    samples: Tensor
    first: Tensor
    first_five: Tensor
    predicted: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("samples", "first", "first_five", "predicted"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """``logits`` (n, c) float32, ``labels`` (n,) int64."""
        ranks = label_ranks(logits, labels)
        # index_add_ and not bincount, which would make a GPU wait for us at every batch.
        ones = torch.ones_like(labels)
        self.samples.index_add_(0, labels, ones)
        self.first.index_add_(0, labels, (ranks == 0).long())
        self.first_five.index_add_(0, labels, (ranks < 5).long())
        self.predicted.index_add_(0, logits.argmax(1), ones)

    def compute(self) -> dict[str, float]:
        """``acc1``, ``acc5``; over the classes that occur as labels, ``mean_per_class_recall`` and ``macro_f1``."""
        present = self.samples > 0
        samples, first = self.samples[present].double(), self.first[present].double()
        return {
            "acc1": (first.sum() / samples.sum()).item(),
            "acc5": (self.first_five.sum() / samples.sum()).item(),
            "mean_per_class_recall": (first / samples).mean().item(),
            "macro_f1": (2 * first / (samples + self.predicted[present])).mean().item(),
        }


class GroupCounts(Metric):
    """Hits and samples per group, a group being a combination of values of some metadata columns.

    Args:
        columns: names of the columns, for the groups' names.
    """

    full_state_update = False
    samples: Tensor
    hits: Tensor

    def __init__(self, columns: list[str]) -> None:
        super().__init__()
        self.columns = columns
        size = MAX_GROUPS ** len(columns)
        for name in ("samples", "hits"):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor, hits: Tensor) -> None:
        """``values`` (n, columns) whole numbers in [0, MAX_GROUPS), ``hits`` (n,) bool."""
        groups = torch.zeros_like(hits, dtype=torch.int64)
        for column in values.unbind(1):
            groups = groups * MAX_GROUPS + column
        self.samples.index_add_(0, groups, torch.ones_like(groups))
        self.hits.index_add_(0, groups, hits.long())

    def compute(self) -> dict[str, tuple[int, int]]:
        """(hits, samples) by group name (``race:0_gender:1``): all combinations up to each column's largest value."""
        shape = (MAX_GROUPS,) * len(self.columns)
        samples, hits = self.samples.reshape(shape).cpu(), self.hits.reshape(shape).cpu()
        seen = samples.nonzero()
        sizes = (seen.max(0).values + 1).tolist() if len(seen) else [0] * len(shape)
        counts = {}
        for values in torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(shape)).tolist():
            name = "_".join(f"{column}:{value}" for column, value in zip(self.columns, values))
            counts[name] = (int(hits[tuple(values)]), int(samples[tuple(values)]))
        return counts


def share(hits: float, samples: float) -> float:
    """``hits / samples``; NaN for an empty group, which is what DataComp writes."""
    return hits / samples if samples else math.nan
