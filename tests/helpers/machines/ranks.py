"""Processes of one group, each running the same script."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port on the loopback address that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def script_environment() -> dict[str, str]:
    """This process's, in which a script finds the packages of this checkout and ``helpers``; one thread."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_ranks(script: Path, arguments: Sequence[object], num_ranks: int, timeout: float) -> None:
    """Run ``python SCRIPT ARGUMENTS`` on ``num_ranks`` processes, as a launcher would; all must end well."""
    group = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment = script_environment() | group
    command = [sys.executable, str(script), *map(str, arguments)]
    ranks = [
        subprocess.Popen(command, env=environment | {"LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(num_ranks)
    ]
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0] * num_ranks, errors
