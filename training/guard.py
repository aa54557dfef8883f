"""A loss or gradient that is not finite: its update is skipped on the device, and a run of many of them is ended."""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
import torch
from torch.distributed.tensor import DTensor

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import write_json
from selection.uids import UID_DTYPE, format_uids
from training.checkpoints import CHECKPOINT_NAME
from training.ranks import gather

logger = logging.getLogger("clipsift")

LAG = 4  # steps after which it is asked how a step went: a GPU is through with it by then, so nobody waits
WINDOW = 1000  # steps, in which no more than ``max_skipped`` updates may be skipped
MAX_SKIPPED = 20  # a GradScaler, which starts at 2^16 and halves, may skip that many before it finds its scale
_LOGGED = 5  # skipped updates of a start that get a line
_NAMED = 3  # uids in the message; all are in the file


@dataclass
class Step:
    """A step whose outcome is on its way from the device."""

    number: int  # from 1
    rate: float
    outcome: torch.Tensor  # (3,) on the CPU, once ``arrival`` is reached: skipped (1.0 or 0.0), loss, exp'd logit scale
    arrival: torch.Event | None
    uids: torch.Tensor  # (b, 2) int64, this rank's

    def names(self) -> list[str]:
        return format_uids(self.uids.cpu().numpy().view(UID_DTYPE)[:, 0])

    def as_dict(self) -> dict[str, Any]:
        _, loss, scale = self.outcome.tolist()
        values = {"learning_rate": self.rate, "logit_scale": scale, "loss": loss}
        # JSON has no NaN
        return {"step": self.number} | {
            name: value if math.isfinite(value) else str(value) for name, value in values.items()
        }

    def __str__(self) -> str:
        _, loss, scale = self.outcome.tolist()
        return f"step {self.number} (learning rate {self.rate:.3g}, logit scale {scale:.4g}, loss {loss:.4g})"


class Guard(L.Callback):
    """Skips each update whose loss or gradients are not finite, and ends the run when they do not stop.

    The optimizer's kernel looks at a flag on the device, so the program does not wait for it. Weights, moments, moving
    average and the optimizer's count of steps stay as they are. All ranks see the same flag: a loss that is not finite
    makes its gradients so, and gradients are summed over the ranks. The flag is read :data:`LAG` steps later, and
    before a checkpoint is written.

    A run is ended when more than ``max_skipped`` of the last :data:`WINDOW` updates were skipped, and at its last step
    when the last two were. It comes before the callbacks that log and save.

    Args:
        folder: ``<out>/training``; gets ``diverged.json``: step, learning rate, loss, logit scale and the uids of the
            global batch of every skipped update of this start.
        max_skipped: how many updates may be skipped; with a GradScaler (``16-mixed``) a few at the start are normal.
    """

    def __init__(self, folder: Path, max_skipped: int) -> None:
        self.folder, self.max_skipped = folder, max_skipped
        self.skipped: list[int] = []  # the steps, over all starts
        self.flag: torch.Tensor | None = None  # () float32 on the device: 1 where the newest update is skipped
        self._under_way: deque[Step] = deque()
        self._seen: list[Step] = []  # those of ``skipped`` in this start

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.skipped = list(state["skipped"])

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor) -> None:
        nothing = loss.detach() * 0  # but NaN for a loss that is not finite, and then so are all gradients
        loss.register_hook(lambda gradient: gradient + nothing)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.flag = not_finite([weight.grad for weight in pl_module.parameters() if weight.grad is not None])
        if optimizer.defaults["fused"]:
            optimizer.found_inf = self.flag  # type: ignore[attr-defined]  # what a GradScaler tells its kernel
        elif self.flag.item():
            optimizer.zero_grad()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.flag is not None
        scale: Any = pl_module.clip.logit_scale  # type: ignore[union-attr]
        outcome = torch.stack([self.flag, outputs["loss"].float(), scale.detach().float().exp()])
        arrival = None
        if outcome.is_cuda:
            outcome, arrival = outcome.to("cpu", non_blocking=True), torch.Event(outcome.device)
            arrival.record()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._under_way.append(Step(batch_idx + 1, rate, outcome, arrival, batch["uid"]))
        self._read(trainer, LAG)

    def settle(self, trainer: L.Trainer, pl_module: L.LightningModule, is_last: bool) -> bool:
        """Whether the newest update was made: only then a checkpoint may take the place of the one before.

        Waits for the device; all ranks call it at the same step.

        Raises:
            ClipsiftError: when the run is to be ended, also for weights that are not finite.
        """
        newest = self._under_way[-1]
        self._read(trainer, 0)
        if not_finite(list(pl_module.parameters())).item():
            self._end(trainer, "weights are no longer finite", [newest])
        tail = [newest.number - 1, newest.number][-newest.number :]
        if is_last and self.skipped[-len(tail) :] == tail:
            self._end(trainer, "the run's last updates were skipped, a loss or gradient is not finite", self._seen)
        return self.skipped[-1:] != tail[-1:]

    def _read(self, trainer: L.Trainer, left: int) -> None:
        """Look at the outcomes of all steps but the ``left`` newest."""
        while len(self._under_way) > left:
            step = self._under_way.popleft()
            if step.arrival:
                step.arrival.synchronize()
            if step.outcome[0]:
                self._note(trainer, step)

    def _note(self, trainer: L.Trainer, step: Step) -> None:
        self._seen.append(step)
        self.skipped.append(step.number)
        if trainer.is_global_zero and len(self._seen) <= _LOGGED:
            end = "; further ones are only counted" if len(self._seen) == _LOGGED else ""
            logger.warning("training: a loss or gradient is not finite, the update is skipped: %s%s", step, end)
        recent = sum(number > step.number - WINDOW for number in self.skipped)
        if recent > self.max_skipped:
            which = f"{recent} of the last {min(WINDOW, step.number):,} updates were skipped"
            self._end(trainer, f"{which}, a loss or gradient is not finite", self._seen)

    def _end(self, trainer: L.Trainer, why: str, steps: list[Step]) -> NoReturn:
        path, checkpoint = self.folder / "diverged.json", self.folder / CHECKPOINT_NAME
        shares = gather(trainer, [(step.outcome[1].item(), step.names()) for step in steps])
        uids = []
        for step, parts in zip(steps, zip(*shares)):
            losses, names = zip(*parts)
            step.outcome[1] = sum(losses) / len(losses)
            uids.append(list(chain(*names)))
        if trainer.is_global_zero:
            write_json(path, [step.as_dict() | {"uids": names} for step, names in zip(steps, uids)])
        named = ", ".join(uids[-1][:_NAMED])
        kept = "The last good checkpoint is kept" if checkpoint.exists() else "No checkpoint was written"
        raise ClipsiftError(
            f"training has diverged: {why}; last: {steps[-1]}, uids {named} ... (all in {path}). {kept}, nothing is "
            "exported. Look at these samples, or with another out lower model.lr, raise model.warmup or max_skipped"
        )


@torch.no_grad()
def not_finite(tensors: list[torch.Tensor]) -> torch.Tensor:
    """() float32 on their device: 1 if any of them holds a NaN or infinity, else 0; over all ranks for split ones."""
    found = torch.zeros((), device=tensors[0].device)
    split: list[torch.Tensor] = [tensor for tensor in tensors if isinstance(tensor, DTensor)]
    whole = [tensor for tensor in tensors if not isinstance(tensor, DTensor)]
    for part in (whole, split):
        if part:  # a GradScaler's kernel, which also multiplies: by 1
            torch._amp_foreach_non_finite_check_and_unscale_(part, found, torch.ones_like(found))
    return found
