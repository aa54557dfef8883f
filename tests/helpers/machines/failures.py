"""What a machine does to one rank of a training."""

from __future__ import annotations

import errno
import os
import time
from typing import Any

import lightning as L
import torch

from training import metrics

_NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"


class Fails(L.Callback):
    """At step ``step`` one rank runs ``out of memory``, there or in the ``backward`` pass, its disk is ``full`` for the
    metrics, it gets ``stuck``, or it crashes the ``first`` time that torchrun starts it."""

    def __init__(self, rank: int, how: str, step: int = 4) -> None:
        self.rank, self.how, self.step = rank, how, step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_rank != self.rank or batch_idx < self.step:
            return
        if self.how == "stuck":
            time.sleep(600)
        if self.how == "out of memory":
            raise torch.OutOfMemoryError(_NO_MEMORY)
        if self.how == "backward":
            next(pl_module.parameters()).register_hook(_out_of_memory)
            return
        if self.how == "first":
            assert os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
            return
        metrics.open = _full  # type: ignore[attr-defined]


def _out_of_memory(_: Any) -> None:
    raise torch.OutOfMemoryError(_NO_MEMORY)


def _full(path: Any, *_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
