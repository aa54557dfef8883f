"""Where a run happens: one machine under every stage's Trainer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import SingleDeviceStrategy

from clipsift_common.devices import Devices
from clipsift_common.ends import stop
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.launchers import Place
from clipsift_common.place_environment import PlaceEnvironment


@dataclass(frozen=True)
class Machine:
    """Lightning's words for where a run happens. Every stage's Trainer is made for the same one."""

    accelerator: str = "auto"
    devices: Devices = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"

    @property
    def environment(self) -> ClusterEnvironment:
        """What tells Lightning which process this is: the first one, which starts the others."""
        return LightningEnvironment()


@dataclass(frozen=True)
class LaunchedMachine(Machine):
    """A machine of which this is one of the processes; ``devices`` and ``num_nodes`` are the launch's."""

    place: Place = field(kw_only=True)

    @property
    def environment(self) -> ClusterEnvironment:
        return PlaceEnvironment(self.place, self.num_nodes)


def make_fabric(machine: Machine, strategy: str | DDPStrategy = "auto") -> L.Fabric:
    """Lightning's Fabric on ``machine``. Raises :class:`ClipsiftError` for an accelerator that is not there."""
    try:
        return L.Fabric(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.num_nodes,
            strategy=strategy,
            plugins=[machine.environment],
        )
    except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:
        raise ClipsiftError(f"trainer: {first_line(error)}") from error


def device_of(machine: Machine) -> torch.device:
    """The device that belongs to this process: a GPU, or the CPU (other accelerators have no float64 to score in)."""
    device = make_fabric(machine).device
    return device if device.type == "cuda" else torch.device("cpu")


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
    fixed = {
        "plugins": [machine.environment, *listed(options.get("plugins"))],
        "callbacks": [_OwnSignals(), *listed(options.get("callbacks"))],
    }
    return L.Trainer(**defaults | options | fixed)


class _OwnSignals(L.Callback):
    """Lightning has just set its own handlers when a stage starts."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop.listen_again()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop.listen_again()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        stop.listen_again()


def make_lone_trainer(machine: Machine, **options: Any) -> L.Trainer:
    """A Trainer for this process alone, whatever process group exists: for the teacher's training, and embedding."""
    device = make_fabric(machine).device
    one = [device.index] if device.index is not None else 1
    lone = Machine(machine.accelerator, one, precision=machine.precision)
    return make_trainer(lone, **{"strategy": SingleDeviceStrategy(device=device)} | options)


def listed(value: Any) -> list[Any]:
    """One, several or none, as the Trainer takes them, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def num_workers(asked: int | None, machine: Machine) -> int:
    """Processes of each rank that read and decode: those asked for, else the rank's cores for a GPU, 2 beside a CPU."""
    if asked is not None:
        return asked
    if device_of(machine).type == "cpu":
        return 2
    ranks = machine.place.per_node if isinstance(machine, LaunchedMachine) else 1
    return max(2, len(os.sched_getaffinity(0)) // ranks)


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
