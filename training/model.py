"""A CLIP as a LightningModule: any open_clip architecture, DataComp's optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.plugins import Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from clipsift_common.clip import create_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.towers.text import ShortTextCLIP, TextLengths, takes_short_texts
from training.economy.checkpointing import Checkpointing, set_checkpointing
from training.economy.texts import GroupedTexts
from training.fsdp import separate_whole, shard
from training.loading.transform import normalise
from training.loss import STARTS, Loss, contrastive_loss
from training.schedule import learning_rate, parameter_groups

MAX_LOG_SCALE = math.log(100)
_FUSED_DEVICES = ("cpu", "cuda", "xpu")  # where AdamW has a fused kernel that can be told to skip an update


class CLIPModule(L.LightningModule):
    """Trains a CLIP from random weights by DataComp's recipe (open_clip's loop, its numbers to rounding).

    The Trainer's single epoch is the whole run: the schedule's length is that of the training loader. Batches are
    ``{"image": (b, 3, h, w) uint8, "text": (b, context) int64, ...}``, a rank's share of the global batch; with
    ``text_lengths`` (:class:`clipsift_common.towers.text.TextLengths`) captions may be cut.

    Args:
        model: open_clip architecture name, or a JSON file with one.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        beta1: AdamW's.
        beta2: AdamW's (DataComp: 0.98, xlarge 0.95).
        eps: AdamW's.
        weight_decay: of tensors with 2 or more dimensions that are no norm, bias or logit scale.
        loss: ``clip``, or ``siglip``, which gives the model a logit bias (:func:`training.loss.contrastive_loss`).
        ema: decay per step of an exponential moving average of the weights, in [0, 1). When it is not 0, the average
            is what validation sees and what is exported.
        accumulate: number of micro-batches that a rank's share is encoded in. All are compared with all, as in
            open_clip's two-pass accumulation: memory is that of one micro-batch, every encoding is done twice, and the
            result is that of 1.
        grad_checkpointing: recompute activations block by block in the backward pass; ``selective``: all but the
            results of matrix products and attention.
        trim_text: encode captions in groups by length (:mod:`training.economy.texts`), where the text tower allows it
            (:func:`clipsift_common.towers.text.takes_short_texts`) and the batch has ``text_lengths``.
        compile: use torch.compile.
        seed: of the initial weights; the same on every rank.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        model: str,
        lr: float,
        warmup: int,
        beta1: float = 0.9,
        beta2: float = 0.98,
        eps: float = 1e-6,
        weight_decay: float = 0.2,
        loss: Loss = "clip",
        ema: float = 0.0,
        accumulate: int = 1,
        grad_checkpointing: Checkpointing = False,
        trim_text: bool = True,
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= ema < 1:
            raise ClipsiftError(f"model.ema: the decay is in [0, 1), 0 for none; got {ema}")
        self.save_hyperparameters()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.clip = cast(Any, create_clip(model, output_dict=True, **STARTS[loss]))
        self._trims = trim_text and takes_short_texts(self.clip)
        if self._trims:
            self.clip.__class__ = ShortTextCLIP
        set_checkpointing(self.clip, grad_checkpointing)
        if compile:
            self.clip.compile()  # in place: the names of the weights stay
        preprocess = self.clip.visual.preprocess_cfg
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1), persistent=False)
        self._loss: Callable[..., torch.Tensor] | None = None
        self._is_sharded = False
        self.averages: list[torch.nn.Module] = []  # the moving average, if any; in a list, it is no part of this module

    @property
    def result(self) -> torch.nn.Module:
        """The CLIP that training is for: ``clip``, or the moving average of its weights."""
        return self.averages[0] if self.averages else self.clip

    def configure_model(self) -> None:
        if self.device_mesh is not None and not self._is_sharded:  # a strategy that splits the model
            shard(self.clip, self.device_mesh["data_parallel"])
            self._is_sharded = True

    def on_fit_start(self) -> None:
        self._loss = contrastive_loss(self.trainer.global_rank, self.trainer.world_size, self.hparams["loss"])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A pure function of the step: nothing to save, nothing to restore.
        total = int(self.trainer.num_training_batches)
        rate = learning_rate(batch_idx, total, self.hparams["lr"], self.hparams["warmup"])
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        assert self._loss is not None
        image = normalise(batch["image"], self.mean.float(), self.std.float()).to(self.dtype)
        return self._loss(**self._encode(image, batch["text"], batch.get("text_lengths")))

    def _encode(self, image: Tensor, text: Tensor, lengths: TextLengths | None) -> dict[str, Tensor]:
        """open_clip's output (features and exp'd logit scale) for a rank's share, in ``accumulate`` pieces.

        Each piece is encoded without keeping its activations and once more when its gradient is due: the loss sees
        the whole share, the memory one piece.
        """
        pieces = self.hparams["accumulate"]
        if len(image) % pieces:
            raise ClipsiftError(
                f"accumulate: {pieces} does not divide a rank's share of the batch, {len(image)} samples"
            )
        texts: list[Any] = list(text.chunk(pieces))
        if self._trims and lengths is not None:
            texts = [GroupedTexts.of(*part) for part in zip(texts, torch.from_numpy(lengths.values).chunk(pieces))]
        if pieces == 1:
            return self._towers(image, texts[0])
        outputs = [checkpoint(self._towers, *piece, use_reentrant=False) for piece in zip(image.chunk(pieces), texts)]
        features = {name: torch.cat([out[name] for out in outputs]) for name in ("image_features", "text_features")}
        return outputs[0] | features

    def _towers(self, image: Tensor, text: Tensor | GroupedTexts) -> dict[str, Tensor]:
        """open_clip's output for pictures and their captions."""
        if isinstance(text, Tensor):
            return self.clip(image, text)
        return self.clip(image) | {"text_features": text.encode(lambda part: self.clip(text=part)["text_features"])}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            separate_whole(parameter_groups(self.clip, self.hparams["weight_decay"])),
            lr=self.hparams["lr"],
            betas=(self.hparams["beta1"], self.hparams["beta2"]),
            eps=self.hparams["eps"],
            fused=self.device.type in _FUSED_DEVICES,
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's, which refuses fused optimizers in mixed precision: a GradScaler's scale must be undone first."""
        if gradient_clip_val:
            plugin = self.trainer.precision_plugin
            if scaler := getattr(plugin, "scaler", None):
                scaler.unscale_(optimizer)
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():  # here and not in a later hook: a checkpoint must never hold an unclamped scale
            self.clip.logit_scale.clamp_(0, MAX_LOG_SCALE)
