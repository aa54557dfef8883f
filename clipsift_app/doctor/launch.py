"""Do launch, devices and settings agree?"""

from __future__ import annotations

import os

import torch

from clipsift_app.doctor.finding import Finding
from clipsift_app.settings import RunSettings
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import join, launch, local_processes
from clipsift_common.machine import LaunchedMachine
from training.data import check_world


def check_launch(run: RunSettings) -> tuple[Finding, LaunchedMachine | None]:
    """Start the processes as the run would, once the environment and the settings agree; None when they do not."""
    try:
        settings, place = join(run.machine, os.environ, torch.cuda.device_count())
        num_ranks = settings.num_nodes * local_processes(settings)
        check_world(run.data["global_batch"], num_ranks)
        machine = launch(run.machine)
    except ClipsiftError as error:
        return Finding("launch", "fail", str(error), "what is said there; docs/cluster.md has every launcher"), None
    share = int(run.data["global_batch"]) // num_ranks
    devices = f"{num_ranks} processes" if num_ranks > 1 else "1 process"
    by = f", started by {place.launcher}" if place else ""
    return Finding(
        "launch", "ok", f"{devices} on {machine.accelerator}{by}, {share:,} samples of a batch each"
    ), machine
