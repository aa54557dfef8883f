"""One start at a time in a folder, however many processes it has."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import writing

logger = logging.getLogger("clipsift")

_NAME = ".lock"
_MOUNTS = Path("/proc/self/mounts")
_OWN_LOCKS = re.compile(r"(^|,)(nolock|localflock|local_lock=(all|posix))(,|$)")  # options of NFS and Lustre
_held: dict[Path, IO[str]] = {}


def hold(folder: Path, shared: bool = False) -> None:
    """Keep ``folder`` to this launch until rank 0 ends, however it ends; a collective call.

    ``shared``: with others that share it, as parts of one step do.

    The lock is POSIX's: it reaches the other nodes on a network file system, and forked workers do not inherit it.
    Where there is no such lock, or it is known not to reach them, a warning says so.

    Raises:
        ClipsiftError: on every rank, when another start is at work in it.
    """
    on_rank_zero(lambda: _hold(folder.resolve(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX))


def _hold(folder: Path, kind: int) -> None:
    if folder in _held:
        return
    path = folder / _NAME
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held until the process ends
    try:
        fcntl.lockf(handle, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        handle.seek(0)
        who = handle.read().strip()
        handle.close()
        raise ClipsiftError(
            f"{folder}: another start is at work in it ({who}); wait for it to end, or choose another folder"
        ) from error
    except OSError as error:
        handle.close()
        return _warn(folder, first_line(error))
    if locks_are_local(folder, _MOUNTS.read_text() if _MOUNTS.is_file() else ""):
        _warn(folder, "its mount keeps locks on this node")
    with writing(path):
        handle.truncate(0)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        handle.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
        handle.flush()
    _held[folder] = handle


def locks_are_local(folder: Path, mounts: str) -> bool:
    """Whether a lock in ``folder`` would not be seen on other nodes, by the lines of ``/proc/mounts``."""
    table = {Path(line.split()[1]): line.split()[3] for line in mounts.splitlines()}
    place = next((place for place in (folder, *folder.parents) if place in table), None)
    return place is not None and bool(_OWN_LOCKS.search(table[place]))


def _warn(folder: Path, why: str) -> None:
    logger.warning(
        "%s: locks do not work there (%s): a second start on another node would not be noticed; "
        "start each run once, or choose a folder on another file system",
        folder,
        why,
    )
