"""Zero-shot classification by groups of samples, and the worst of them: the WILDS and geographic fairness tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from evaluation.data.loader import Batch
from evaluation.data.tars import TarImages
from evaluation.encoder import Encoder
from evaluation.kinds.base import Metrics
from evaluation.kinds.counts import GroupCounts, label_ranks, share
from evaluation.kinds.zeroshot import ZeroShot


def worst(shares: Iterable[float]) -> float:
    """The least of the groups that are not empty."""
    return min((value for value in shares if not math.isnan(value)), default=math.nan)


class Groups(ZeroShot):
    """The standard three, and ``{score}_{column}:{g}``, ``count_{column}:{g}`` for each grouping column.

    Options of the task: ``columns`` of the metadata vectors in order; ``score``: ``acc`` or ``acc_top5``; ``worst``:
    grouping column -> name of the worst group's metric; ``other``: column -> group that is none. DataComp's code counts
    that group (FMoW's "Other" region, 4 images) among the candidates for the worst, WILDS' own does not; the rules
    ``corrected`` follow WILDS.
    """

    def open_samples(self) -> TarImages:
        return TarImages(self.task, self.folder, self.num_classes, list(self.task.options["worst"]))

    def prepare(self, encoder: Encoder) -> None:
        super().prepare(encoder)
        self.groups = {column: GroupCounts([column]).to(encoder.device) for column in self.task.options["worst"]}

    def count(self, logits: Tensor, batch: Batch) -> None:
        super().count(logits, batch)
        hits = label_ranks(logits, batch["label"]) < (5 if self.task.options["score"] == "acc_top5" else 1)
        for number, groups in enumerate(self.groups.values()):
            groups.update(batch["metadata"][:, number : number + 1], hits)

    def compute(self) -> Metrics:
        score = self.task.options["score"]
        metrics = dict(super().compute())
        metrics[f"{score}_avg"] = metrics["acc5" if score == "acc_top5" else "acc1"]
        for column, groups in self.groups.items():
            shares = {}
            for name, (hits, samples) in groups.compute().items():
                metrics[f"{score}_{name}"] = shares[name] = share(hits, samples)
                metrics[f"count_{name}"] = float(samples)
            if self.rules == "corrected" and column in self.task.options.get("other", {}):
                shares.pop(f"{column}:{self.task.options['other'][column]}", None)
            metrics[self.task.options["worst"][column]] = worst(shares.values())
        return metrics
