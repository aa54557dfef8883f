"""Lightning on a GPU that is not there."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from helpers.machines.simulated_gpu import DEVICE


class OnSimulatedGPU(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        assert device == DEVICE


def on_simulated_gpu() -> dict[str, Any]:
    """A Trainer's options."""
    return {"accelerator": OnSimulatedGPU(), "strategy": SingleDeviceStrategy(device=DEVICE)}
