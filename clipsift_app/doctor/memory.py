"""How much memory there is, and how much a training step will take."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from training.economy.checkpointing import KEPT

_ADAM_BYTES = 16  # of a parameter: float32 weight, gradient and two moments
_LOGIT_BYTES = 24  # of a pair in the loss: similarities both ways, their softmax and gradients


@dataclass(frozen=True)
class StepMemory:
    """What a rank's share of a step takes. ``fixed``: bytes whatever the batch; ``per_sample``: of activations."""

    fixed: float
    per_sample: float

    def bytes(self, share: int, num_ranks: int, accumulate: int = 1) -> float:
        """For ``share`` samples on each of ``num_ranks``, encoded in ``accumulate`` pieces."""
        return self.fixed + self.per_sample * share / accumulate + _LOGIT_BYTES * share * share * num_ranks

    def pieces_that_fit(self, share: int, num_ranks: int, limit: float) -> int | None:
        """The smallest power of two to set ``model.accumulate`` to; None when none is enough."""
        pieces = 2
        while pieces <= share and share % pieces == 0:
            if self.bytes(share, num_ranks, pieces) <= limit:
                return pieces
            pieces *= 2
        return None


def fixed_bytes(num_parameters: int, averaged: bool) -> float:
    """Of weights, gradients and the optimizer; ``averaged``: with a moving average of the weights."""
    return num_parameters * (_ADAM_BYTES + (4 if averaged else 0))


def num_blocks(model: torch.nn.Module) -> int:
    """The largest number of equal blocks in a row: those that checkpointing computes again one by one; at least 1."""
    stacks = [module for module in model.modules() if isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential))]
    return max([1, *(len(stack) for stack in stacks if len({type(block) for block in stack}) == 1)])


def available(device: torch.device, local_ranks: int) -> float:
    """Bytes for this process: what is free of a GPU, or its part of the main memory that is."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024.0 * int(lines["MemAvailable"].split()[0])
    limit = Path("/sys/fs/cgroup/memory.max")  # of a container
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        free = min(free, float(text) - used)
    return free / local_ranks


class Saved(TorchDispatchMode):
    """Bytes of what the forward pass kept for the backward pass, since :meth:`restart`.

    What selective checkpointing keeps goes past torch's hooks for saved tensors: it is counted as it is computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        """Count a step of its own: what it keeps may lie where the step before had kept something."""
        self.bytes = 0
        self._seen: set[int] = set()

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in KEPT and torch.is_grad_enabled():  # not so in the backward pass, whose products are nobody's to keep
            self.count(result if isinstance(result, torch.Tensor) else result[0])
        return result


@contextmanager
def saved_tensors(selective: bool) -> Iterator[Saved]:
    """Count them in the block; ``selective``: of a model that keeps results of its own choice."""
    saved = Saved()
    with warnings.catch_warnings(), torch.autograd.graph.saved_tensors_hooks(saved.count, lambda tensor: tensor):
        warnings.filterwarnings("ignore", ".*selective activation checkpoint", FutureWarning)  # of what goes past them
        with saved if selective else nullcontext():
            yield saved
