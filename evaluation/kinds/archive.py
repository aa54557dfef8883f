"""What the kinds of one csv and one zip have in common: features of each image, made once and gathered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipsift_common.distributed import gather_objects
from evaluation.data.archives import ZipImages
from evaluation.data.loader import Batch
from evaluation.kinds.base import Evaluator


class ArchiveEvaluator(Evaluator):
    """Keeps the features of a zip's images; each is encoded once, however often the table names it."""

    amp_images = True
    _parts: list[tuple[Tensor, Tensor]]

    def open_images(self, names: Sequence[str]) -> ZipImages:
        """``names`` as in :class:`ZipImages`; their order is the order of :meth:`gather`'s rows."""
        self._parts = []
        return ZipImages(self.task, self.folder / self.task.options["images"], names)

    def update(self, features: Tensor, batch: Batch) -> None:
        self._parts.append((batch["position"], features))

    def gather(self) -> Tensor:
        """(n, d) features of all ranks' images."""
        mine = tuple(torch.cat(parts).cpu() for parts in zip(*self._parts)) if self._parts else None
        everyone = [part for part in gather_objects(mine) if part is not None]
        positions, features = (torch.cat(parts) for parts in zip(*everyone))
        return torch.empty_like(features).index_copy_(0, positions, features)
