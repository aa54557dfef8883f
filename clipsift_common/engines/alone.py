"""The launch of a process that wants no group: a part's, or the one that gives a Ray cluster its work."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from clipsift_common.devices import parse_devices
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import join, launch, local_processes
from clipsift_common.machine import LaunchedMachine, Machine


def launch_alone(machine: Machine, asked: str, one_device: bool = False) -> LaunchedMachine:
    """Launch this process, the only one.

    Args:
        asked: the setting that asks for it, for the message.
        one_device: take one device where the settings leave it open, whatever the machine has.

    Raises:
        ClipsiftError: before anything is loaded, when a launcher has started several, or the settings would.
    """
    if one_device and parse_devices(machine.devices) is None and machine.num_nodes == 1:
        machine = replace(machine, devices=1)
    there, place = join(machine, os.environ, torch.cuda.device_count())
    if place and place.world_size > 1:
        raise ClipsiftError(
            f"{asked}: works without a process group, and {place.launcher} has started {place.world_size} processes; "
            f"start one, or leave {asked} out to share the work among them"
        )
    if (several := there.num_nodes * local_processes(there)) > 1:
        raise ClipsiftError(
            f"{asked}: works without a process group, and trainer.devices x trainer.num_nodes is {several} here; "
            "say --trainer.devices 1"
        )
    return launch(machine)
