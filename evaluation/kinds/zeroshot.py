"""Zero-shot classification: prompts make a linear classifier, images are counted by the rank of their label."""

from __future__ import annotations

from torch import Tensor

from clipsift_common.distributed import on_rank_zero
from evaluation.data.loader import Batch
from evaluation.data.prompts import read_classnames, read_templates
from evaluation.data.tars import TarImages
from evaluation.encoder import Encoder
from evaluation.kinds.base import Evaluator, Metrics
from evaluation.kinds.counts import ClassCounts


class ZeroShot(Evaluator):
    """``acc1``, ``acc5`` (None below five classes) and ``mean_per_class_recall`` over the classes that occur."""

    def open(self) -> TarImages:
        names, self.templates = on_rank_zero(
            lambda: (read_classnames(self.task, self.folder), read_templates(self.task, self.folder))
        )
        # CLEVR Distance has a class without a name. clip-benchmark 1.4.0, which made the published numbers, drops the
        # line: the classifier has a column less than there are labels, and the later classes are shifted.
        self.classnames = [name for name in names if name or self.rules == "corrected"]
        self.num_classes = len(names)
        return self.open_samples()

    def open_samples(self) -> TarImages:
        return TarImages(self.task, self.folder, self.num_classes)

    def chance(self) -> float | None:
        if self.task.random is None or self.num_classes == self.task.classes:
            return self.task.random
        return 1 / self.num_classes  # a folder with fewer classes than DataComp's, such as a demonstration's

    def prepare(self, encoder: Encoder) -> None:
        self.classifier = encoder.class_features(self.classnames, self.templates)
        self.counts = ClassCounts(self.num_classes).to(encoder.device)

    def update(self, features: Tensor, batch: Batch) -> None:
        self.count(features @ self.classifier.T, batch)

    def count(self, logits: Tensor, batch: Batch) -> None:
        """Take in ``logits`` (b, c): cosines; the usual factor 100 changes no metric."""
        self.counts.update(logits, batch["label"])

    def compute(self) -> Metrics:
        counts = self.counts.compute()
        return {
            "acc1": counts["acc1"],
            "acc5": counts["acc5"] if len(self.classnames) >= 5 else None,
            "mean_per_class_recall": counts["mean_per_class_recall"],
        }


class MacroF1(ZeroShot):
    """iWildCam's: beside the standard three, recall and F1 averaged over the classes that occur as labels.

    As in WILDS (Koh et al., 2021), classes without a sample are not averaged in, though predictions of them cost
    the others recall.
    """

    def compute(self) -> Metrics:
        standard = super().compute()
        return {
            **standard,
            "acc_avg": standard["acc1"],
            "recall-macro_all": standard["mean_per_class_recall"],
            "F1-macro_all": self.counts.compute()["macro_f1"],
        }
