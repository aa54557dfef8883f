"""The exponential moving average of a model's weights, which is what a run with ``model.ema`` exports."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage(WeightAveraging):
    """Lightning's averaging, once per step: ``average = decay * average + (1 - decay) * weights``.

    It starts as the weights after the first step.

    The average lies on the model's device, is saved with the checkpoint (as its ``state_dict``; the weights that are
    trained are ``current_model_state``) and takes the weights' place when training ends. Buffers are not averaged.
    During training it is the module's ``result``.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(use_buffers=False)
        self._mix = get_ema_multi_avg_fn(decay)

    @property
    def _average(self) -> AveragedModel:
        assert self._average_model is not None, "setup comes first"
        return self._average_model

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        pl_module.averages = [self._average.module.clip]  # type: ignore[assignment]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        average = self._average.to(pl_module.device)  # made before the model was moved there
        average.n_averaged = average.n_averaged.cpu()  # it is looked at every step; a GPU need not be waited for

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._latest_update_step:
            self._update(pl_module)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, pl_module: L.LightningModule) -> None:
        """``AveragedModel.update_parameters``, but that sends the GPU a count that it has no use for."""
        average = self._average
        averages: list[torch.Tensor] = list(average.module.parameters())
        weights: list[torch.Tensor] = list(pl_module.parameters())
        if average.n_averaged == 0:
            torch._foreach_copy_(averages, weights)
        else:
            self._mix(averages, weights, average.n_averaged)  # type: ignore[arg-type]
        average.n_averaged += 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        pl_module.averages = []  # type: ignore[assignment]
