"""What each start of a run was: its command, and what it ran on. Beside ``config.yaml``, in ``provenance.json``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clipsift_app.recorded import check_recorded
from clipsift_app.settings import RunSettings
from clipsift_app.version import commit, device_name, versions
from clipsift_common.distributed import world_size
from clipsift_common.files import read_json, write_json

FILE_NAME = "provenance.json"


def begin(run: RunSettings, verb: str, arguments: Sequence[str]) -> None:
    """Save the resolved settings into the run directory and note this start; for rank 0 alone.

    Raises:
        ClipsiftError: when the directory was made with other settings; nothing is written then.
    """
    if check_recorded(run.out, run.resolved):
        run.save()
    path = run.out / FILE_NAME
    earlier = read_json(path) if path.is_file() else []
    about = {
        "command": shlex.join(["clipsift", verb, *arguments]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": world_size(),
        "device": device_name(run.machine.accelerator),
        "commit": commit(),
        "versions": versions(),
    }
    write_json(path, [*earlier, about])


def read_starts(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run directory, oldest first; none when it has no record of them."""
    path = folder / FILE_NAME
    return read_json(path) if path.is_file() else []
