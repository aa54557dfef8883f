"""The few collectives the stages need, on the process group that Lightning has set up (or on none)."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether a process group exists."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's global rank; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if is_distributed():
        dist.barrier()


def broadcast_object(value: T) -> T:
    """Rank 0's plain value on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=_object_device())
    return box[0]


def gather_objects(value: T) -> list[T]:
    """Every rank's plain value, in rank order, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """The elementwise sum of every rank's array (of one shape and dtype), on every rank."""
    if not is_distributed():
        return values
    total = torch.from_numpy(values).to(_object_device(), copy=True)
    dist.all_reduce(total)
    return total.cpu().numpy()


def _object_device() -> torch.device:
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
