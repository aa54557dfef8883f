"""Image-text retrieval with several captions per image."""

from __future__ import annotations

import torch
from torch import Tensor

from clipsift_common.distributed import on_rank_zero
from evaluation.data.archives import ZipImages, read_rows
from evaluation.encoder import Encoder
from evaluation.kinds.archive import ArchiveEvaluator
from evaluation.kinds.base import Metrics

RECALL_AT = (1, 5, 10)
BLOCK = 1024  # queries compared at once, so that the whole similarity matrix never exists


def best_ranks(queries: Tensor, candidates: Tensor, owner: Tensor, own: Tensor) -> Tensor:
    """For each query, how many candidates come before the first of its own: 0 means found at once.

    Args:
        queries: (q, d).
        candidates: (c, d).
        owner: (c,) whose candidate it is.
        own: (q,) which owner's candidates are the right ones; each has at least one.
    """
    order = torch.arange(len(candidates), device=candidates.device)
    ranks = []
    for block, wanted in zip(queries.split(BLOCK), own.split(BLOCK)):
        similarity = block @ candidates.T
        right = owner[None, :] == wanted[:, None]
        first = similarity.masked_fill(~right, -torch.inf).argmax(1, keepdim=True)
        best = similarity.gather(1, first)
        ranks.append(((similarity > best) | ((similarity == best) & (order < first))).sum(1))
    return torch.cat(ranks)


class Retrieval(ArchiveEvaluator):
    """``image_retrieval_recall@k`` over captions, ``text_retrieval_recall@k`` over images, ``mean_recall@1``.

    A caption is answered if its image is among the k most similar; an image, if any of its captions is.
    """

    def open(self) -> ZipImages:
        table = self.folder / self.task.options["table"]
        rows = on_rank_zero(lambda: read_rows(self.task, table, ["filename"], ["raw"]))
        self.captions = [caption for row in rows for caption in row["raw"]]
        self.owner = torch.tensor([number for number, row in enumerate(rows) for _ in row["raw"]])
        return self.open_images([row["filename"] for row in rows])

    def prepare(self, encoder: Encoder) -> None:
        self.texts = encoder.texts(self.captions)

    def compute(self) -> Metrics:
        images = self.gather().to(self.texts.device)
        owner = self.owner.to(images.device)
        numbers = torch.arange(len(images), device=images.device)
        image_ranks = best_ranks(self.texts, images, numbers, owner)
        text_ranks = best_ranks(images, self.texts, owner, numbers)
        metrics = {}
        for k in RECALL_AT:
            metrics[f"image_retrieval_recall@{k}"] = _share_below(image_ranks, k)
            metrics[f"text_retrieval_recall@{k}"] = _share_below(text_ranks, k)
        metrics["mean_recall@1"] = (metrics["text_retrieval_recall@1"] + metrics["image_retrieval_recall@1"]) / 2
        return metrics


def _share_below(ranks: Tensor, k: int) -> float:
    return int((ranks < k).sum()) / len(ranks)
