"""What each start of a run was: its command, and what it ran on. Beside ``config.yaml``, in ``provenance.json``."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from clipsift_app.settings import REPOSITORY, RunSettings
from clipsift_common.distributed import world_size
from clipsift_common.files import read_json, write_json

FILE_NAME = "provenance.json"

_PACKAGES = (
    *("clipsift", "torch", "torchvision", "lightning", "open_clip_torch", "torchmetrics", "webdataset"),
    *("timm", "numpy", "pillow", "pyarrow"),
)


def begin(run: RunSettings, verb: str, arguments: Sequence[str]) -> None:
    """Save the resolved settings into the run directory and note this start; for rank 0 alone."""
    run.save()
    path = run.out / FILE_NAME
    earlier = read_json(path) if path.is_file() else []
    about = {
        "command": shlex.join(["clipsift", verb, *arguments]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": world_size(),
        "device": _device(run.machine.accelerator),
        "commit": _commit(),
        "versions": versions(),
    }
    write_json(path, [*earlier, about])


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run directory, oldest first; none when it has no record of them."""
    path = folder / FILE_NAME
    return read_json(path) if path.is_file() else []


def versions() -> dict[str, str]:
    """Name -> version of Python and of the installed packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _device(accelerator: str) -> str:
    if accelerator == "cpu" or not torch.cuda.is_available():
        return platform.processor() or platform.machine()
    return torch.cuda.get_device_name()


def _commit() -> str | None:
    """The checkout's commit, with a plus when files were changed since; None outside of one."""
    try:
        commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        commit, changes = (
            subprocess.run(["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=True).stdout
            for words in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changes.strip() else "")
