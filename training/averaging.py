"""The exponential moving average of a model's weights, which is what a run with ``model.ema`` exports."""

from __future__ import annotations

import lightning as L
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
        super().__init__(use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(decay))

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

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        pl_module.averages = []  # type: ignore[assignment]
