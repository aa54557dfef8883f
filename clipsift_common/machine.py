"""The processes and devices of a run: one launch at the start, the same machine under every stage's Trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import lightning as L
import torch
from lightning.fabric.strategies import DDPStrategy
from lightning.pytorch.strategies import SingleDeviceStrategy

from clipsift_common.errors import ClipsiftError
from clipsift_common.quiet import quiet_libraries

# How long a rank waits for the others. Rank 0 trains the teacher and merges large pools alone; a rank that dies is
# noticed at once by the launcher, so a long patience costs nothing.
TIMEOUT = timedelta(hours=12)

# What Fabric's command line leaves for Fabric alone; the Trainer would ignore it, so we take it or refuse it.
_FABRIC_VARIABLES = ("LT_CLI_USED", "LT_ACCELERATOR", "LT_STRATEGY", "LT_DEVICES", "LT_NUM_NODES", "LT_PRECISION")


@dataclass(frozen=True)
class Machine:
    """Lightning's words for where a run happens. Every stage's Trainer is made for the same one."""

    accelerator: str = "auto"
    devices: int | str | list[int] = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


def launch(machine: Machine) -> Machine:
    """Start the run's processes, or join those that ``fabric run``, torchrun or srun started.

    Afterwards the process group exists (when there is more than one process), every line of the program runs on every
    rank, and Trainers made by :func:`make_trainer` reuse the group.

    Returns:
        The machine with ``devices`` and ``num_nodes`` filled in from the launch.

    Raises:
        ClipsiftError: when the launch's world size is not that of the settings.
    """
    quiet_libraries()
    machine = _join(machine, os.environ)
    for name in _FABRIC_VARIABLES:
        os.environ.pop(name, None)
    fabric = L.Fabric(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
        strategy=DDPStrategy(timeout=TIMEOUT) if _is_distributed(machine) else "auto",
    )
    if fabric.world_size > 1:
        fabric.launch()
    if fabric.global_rank != 0:
        logging.getLogger("clipsift").setLevel(logging.ERROR)
    return machine


def _join(machine: Machine, environment: Any) -> Machine:
    launched = _launched(environment)
    precision = environment.get("LT_PRECISION")
    if precision and precision != machine.precision:
        raise ClipsiftError(
            f"fabric run --precision {precision} does not reach the Trainer; "
            f"say --trainer.precision {precision} after the program"
        )
    if launched is None:
        return machine
    world_size, per_node = launched
    if machine.devices == "auto":
        nodes = max(1, world_size // per_node)
        if machine.num_nodes not in (1, nodes):
            raise ClipsiftError(
                f"the launch has {nodes} nodes, trainer.num_nodes is {machine.num_nodes}; make them equal"
            )
        return replace(machine, devices=per_node, num_nodes=nodes)
    configured = _count(machine.devices) * machine.num_nodes
    if configured != world_size:
        raise ClipsiftError(
            f"the launch has {world_size} processes, but trainer.devices x trainer.num_nodes is {configured}; "
            "make them equal, or leave trainer.devices out to take the launch's"
        )
    return machine


def _is_distributed(machine: Machine) -> bool:
    if machine.devices == "auto":
        return machine.num_nodes > 1 or (machine.accelerator != "cpu" and torch.cuda.device_count() > 1)
    return machine.num_nodes * _count(machine.devices) > 1


def _launched(environment: Any) -> tuple[int, int] | None:
    """(world size, processes per node) of an outer launcher, or None."""
    if "WORLD_SIZE" in environment and "LOCAL_RANK" in environment:
        world_size = int(environment["WORLD_SIZE"])
        return world_size, int(environment.get("LOCAL_WORLD_SIZE", world_size))
    if "SLURM_NTASKS" in environment and environment.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        if "SLURM_PROCID" not in environment:  # inside an allocation, but not started by srun
            return None
        world_size = int(environment["SLURM_NTASKS"])
        return world_size, max(1, world_size // int(environment.get("SLURM_NNODES", 1)))
    return None


def _count(devices: int | str | list[int]) -> int:
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    return len(text.strip(",").split(",")) if "," in text else int(text)


def make_trainer(machine: Machine, **options: Any) -> L.Trainer:
    """A Trainer on ``machine`` that logs, saves and prints nothing unless ``options`` say so."""
    defaults: dict[str, Any] = {
        "accelerator": machine.accelerator,
        "devices": machine.devices,
        "num_nodes": machine.num_nodes,
        "strategy": "auto" if machine.strategy == "fsdp" else machine.strategy,  # only training splits the model
        "precision": machine.precision,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return L.Trainer(**defaults | options)


def make_lone_trainer(machine: Machine, **options: Any) -> L.Trainer:
    """A Trainer for this process alone, whatever process group exists (rank 0 trains the teacher so)."""
    root = L.Fabric(accelerator=machine.accelerator, devices=1).device
    lone = replace(machine, devices=1, num_nodes=1)
    return make_trainer(lone, **{"strategy": SingleDeviceStrategy(device=root)} | options)


def device_of(machine: Machine) -> torch.device:
    """The device that belongs to this process."""
    if machine.accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` CPU threads per operation.

    The last bits of a matrix product depend on how many threads share it; what must come out the same on any number
    of processes fixes the count.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
