"""Do launch, devices and settings agree?"""

from __future__ import annotations

from clipsift_app.doctor.finding import Finding
from clipsift_app.settings import RunSettings
from clipsift_common.distributed import world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.machine import LaunchedMachine
from training.data import check_world


def check_launch(run: RunSettings) -> tuple[Finding, LaunchedMachine | None]:
    """Start the processes as the run would; None when that cannot be."""
    try:
        machine = launch(run.machine)
        check_world(run.data["global_batch"], world_size())
    except ClipsiftError as error:
        return Finding("launch", "fail", str(error), "start it with as many processes as the settings say"), None
    except Exception as error:  # whatever Lightning says of an accelerator that is not there
        text, _, _ = str(error).partition("\n")
        return Finding("launch", "fail", text, "set trainer.accelerator and trainer.devices to what there is"), None
    share = int(run.data["global_batch"]) // world_size()
    devices = f"{world_size()} processes" if world_size() > 1 else "1 process"
    return Finding("launch", "ok", f"{devices} on {machine.accelerator}, {share:,} samples of a batch each"), machine
