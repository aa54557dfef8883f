"""The exponential moving average of a model's weights, which is what a run with ``model.ema`` exports."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import AveragedModel

from training.guard import Guard


class MovingAverage(WeightAveraging):
    """Lightning's averaging, once per step: ``average = decay * average + (1 - decay) * weights``.

    It starts as the weights after the first step, and stays as it is where ``guard`` skips an update.

    The average lies on the model's device, is saved with the checkpoint (as its ``state_dict``; the weights that are
    trained are ``current_model_state``) and takes the weights' place when training ends. Buffers are not averaged.
    During training it is the module's ``result``.
    """

    def __init__(self, decay: float, guard: Guard) -> None:
        super().__init__(use_buffers=False)
        self.decay, self.guard = decay, guard

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
        # The mean as a descent along (average - weights) by a rate of 1 - decay: its kernel heeds a flag on the device.
        # The weights stand in the place of the gradient, negated by maximize; the decay of weights adds the average.
        self._parameters = list(average.module.parameters())
        self._descent = torch.optim.SGD(
            self._parameters, lr=1 - self.decay, weight_decay=1.0, maximize=True, fused=True
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._latest_update_step:
            self._update(pl_module)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, pl_module: L.LightningModule) -> None:
        averages: list[torch.Tensor] = list(self._parameters)
        weights: list[torch.Tensor] = list(pl_module.parameters())
        if self._average.n_averaged == 0:
            torch._foreach_copy_(averages, weights)
        else:
            for average, weight in zip(averages, weights):
                average.grad = weight
            self._descent.found_inf = self.guard.flag  # type: ignore[attr-defined]
            self._descent.step()
            self._descent.zero_grad()
        self._average.n_averaged += 1

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        pl_module.averages = []  # type: ignore[assignment]
