"""The program in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from helpers.machines.ranks import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sys.executable).parent  # the launchers that are installed with Python's packages


def environment() -> dict[str, str]:
    """This process's, without what a launcher left in it; one thread each, since the tests' processes share cores."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LT_", "SLURM_"))}
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_WORLD_SIZE"):
        inherited.pop(name, None)
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(arguments: list[str], launcher: list[str] | None = None) -> subprocess.Popen[str]:
    """The program in a process of its own, in its own session so that it can be killed whole."""
    command = [*(launcher or [sys.executable]), str(REPOSITORY / "clipsift.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True)


def run(arguments: list[str], launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    process = start(arguments, launcher)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def torchrun(processes: int = 2) -> list[str]:
    """The launcher of so many processes."""
    return [str(SCRIPTS / "torchrun"), f"--nproc_per_node={processes}", f"--master_port={free_port()}"]


def fabric_run(processes: int = 2) -> list[str]:
    """Lightning's launcher of so many processes."""
    return [str(SCRIPTS / "fabric"), "run", f"--devices={processes}", f"--main-port={free_port()}"]


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, for the program and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
