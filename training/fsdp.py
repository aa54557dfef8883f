"""Models that do not fit: weights, gradients and optimizer split over the ranks (FSDP), by Lightning's strategy."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from clipsift_common.distributed import TIMEOUT
from training.economy.checkpointing import blocks


class ShardedStrategy(ModelParallelStrategy):
    """FSDP over all ranks, with checkpoints that are whole: one file by rank 0, written as any other run's."""

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size, 1, save_distributed_checkpoint=False, timeout=TIMEOUT)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options)
        self.barrier()


def shard(clip: torch.nn.Module, mesh: DeviceMesh) -> None:
    """Split the weights over ``mesh``, each transformer block a unit of its own and what is left another, in place.

    Scalars (logit scale and bias) cannot be split; every rank keeps them, and their gradients are averaged.
    """
    scalars = {parameter for parameter in clip.parameters() if parameter.ndim == 0}
    for scalar in scalars:
        scalar.register_post_accumulate_grad_hook(_average_gradient)
    for block in blocks(clip):
        fully_shard(block, mesh=mesh)
    fully_shard(clip, mesh=mesh, ignored_params=scalars)


def _average_gradient(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad.div_(dist.get_world_size())


def separate_whole(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Optimizer groups in which split and whole parameters do not meet; a fused kernel takes either, not both."""
    result = []
    for group in groups:
        split = [parameter for parameter in group["params"] if isinstance(parameter, DTensor)]
        whole = [parameter for parameter in group["params"] if not isinstance(parameter, DTensor)]
        result += [group | {"params": part} for part in (split, whole) if part]
    return result


def full_state(clip: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state with whole tensors, on the CPU. All ranks call it together when the model is split."""
    state = clip.state_dict()
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()
        for name, tensor in state.items()
    }
