"""What ``test_full_disks.py`` runs: ``python full_disks.py WORKSPACE DISK`` starts a run on two ranks again and again.

Each start goes on with what is in ``DISK/run``, until the disk is really filled right before a certain file is written;
the last one is left alone. Writes ``WORKSPACE/ends.json``: of each start the status and the words of each rank, and the
seconds from the full disk to its end. One import serves all: the ranks are forked.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import lightning.pytorch.cli  # noqa: F401 - what the program imports late is imported once, for all
import torch

from clipsift_app import stages  # noqa: F401
from clipsift_app.program import run_verb
from clipsift_common import files
from evaluation import results
from helpers.machines.launchers import open_mpi
from helpers.machines.ranks import free_port

FILLED_BEFORE = {  # by what is then written
    "config": "*/run/config.yaml",
    "index": "*/index/*.npy",
    "teacher": "*/teacher/*/last.ckpt",
    "features": "*/features/*.npz",
    "scores": "*/scores/*.parquet",
    "subset": "*/selection/subset.npy",
    "results": "*/eval_results.jsonl",
    "report": "*/report/*",
    "nothing": "",
}


def fill(disk: Path) -> None:
    with suppress(OSError), open(disk / "filler", "ab", buffering=0) as handle:
        while True:
            handle.write(b"a" * 4096)


def fill_before(pattern: str, disk: Path, mark: Path) -> None:
    """From now on, in this process."""
    writing = files.writing

    @contextmanager
    def filling(path: str | Path) -> Iterator[None]:
        if fnmatch(str(path), pattern) and not mark.exists():
            mark.touch()
            fill(disk)
        with writing(path):
            yield

    files.writing = results.writing = filling


def be_rank(rank: int, port: int, arguments: list[str], says: Path, pattern: str, disk: Path, mark: Path) -> int:
    os.environ.update(open_mpi(rank, 2) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    for stream, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(says.with_name(f"{says.name}.{suffix}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    fill_before(pattern, disk, mark)
    status = run_verb(arguments[0], arguments[1:])
    atexit._run_exitfuncs()
    return status


def start(arguments: list[str], says: list[Path], disk: Path, mark: Path, pattern: str = "") -> dict[str, Any]:
    """Two ranks, from their start to their end; one that goes on for 300 s is killed."""
    port, begun = free_port(), time.time()
    ranks = []
    for rank in range(2):
        process = os.fork()
        if not process:
            status = 98
            try:
                status = be_rank(rank, port, arguments, says[rank], pattern, disk, mark)
            except BaseException:
                traceback.print_exc()
            os._exit(status)
        ranks.append(process)
    statuses: dict[int, int] = {}
    while len(statuses) < len(ranks):
        for process in set(ranks) - set(statuses):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                statuses[process] = os.waitstatus_to_exitcode(status)
            elif time.time() > begun + 300:
                os.kill(process, 9)
        time.sleep(0.05)
    seconds = time.time() - (mark.stat().st_mtime if mark.exists() else begun)
    words = [
        "".join(says[rank].with_name(f"{says[rank].name}.{suffix}").read_text() for suffix in ("out", "err"))
        for rank in range(2)
    ]
    return {"statuses": [statuses[process] for process in ranks], "said": words, "seconds": round(seconds, 1)}


def main(folder: Path, disk: Path) -> None:
    torch.set_num_threads(1)
    config = f"--config={folder / 'config.yaml'}"
    ends = {}
    for what, pattern in FILLED_BEFORE.items():
        says = [folder / f"{what}.{rank}" for rank in range(2)]
        arguments = ["reproduce", config, f"--out={disk / 'run'}"]
        ends[what] = start(arguments, says, disk, folder / f"{what}.full", pattern)
        (disk / "filler").unlink(missing_ok=True)
    says = [folder / f"elsewhere.{rank}" for rank in range(2)]
    mark = folder / "elsewhere.full"
    ends["elsewhere"] = start(["select", config, f"--out={folder / 'run'}"], says, disk, mark)
    (disk / "log").touch()
    fill(disk)
    says = [folder / f"log.{rank}" for rank in range(2)]
    says[0].with_name("log.0.err").symlink_to(disk / "log")
    ends["log"] = start(["select", config, f"--out={folder / 'other'}"], says, disk, folder / "log.full")
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
