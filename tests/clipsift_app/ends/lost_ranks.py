"""What ``test_lost_ranks.py`` runs: ``python lost_ranks.py WORKSPACE`` ends one of two ranks of a long training.

Writes ``WORKSPACE/ends.json``: of each end the status and words of both, and the seconds from what ended one of them to
the end of both. No launcher is there that would kill the other.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from helpers.machines.forked import Forked, Launcher, errors
from helpers.machines.launchers import open_mpi, pytorchjob

FAILS = [(0, "full"), (1, "out of memory"), (0, "backward"), (1, "backward")]


def start(folder: Path, name: str, how: str = "", rank: int = 0, launcher: Launcher = open_mpi) -> Forked:
    """A training of which ``rank`` fails at step 4, unless ``how`` is empty."""
    arguments = ["fit", f"--config={folder / 'config.yaml'}", f"--out={folder / name}"]
    if how:
        callback = {"class_path": "helpers.machines.failures.Fails", "init_args": {"rank": rank, "how": how}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        arguments.insert(2, f"--config={folder / f'{name}.yaml'}")
    return Forked(arguments, folder / name, launcher)


def wait_for_rows(metrics: Path) -> None:
    """Until four steps are done, and a rank that is to be stuck then has had the time."""
    give_up = time.monotonic() + 300
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 4) and time.monotonic() < give_up:
        time.sleep(0.1)
    time.sleep(2)


def end(ranks: Forked, seconds: float, since: float | None, metrics: Path) -> dict[str, Any]:
    """``since`` when something ended one of them; None: since the last step."""
    statuses = ranks.wait(seconds)
    since = metrics.stat().st_mtime if since is None else since
    return {"statuses": statuses, "said": ranks.said(), "seconds": round(time.time() - since, 1)}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    ends = {}
    for how in ("", "stuck"):
        for other in range(2):
            name = f"{how or 'killed'}{1 - other}"
            ranks, metrics = start(folder, name, how, other), folder / name / "training" / "metrics.csv"
            wait_for_rows(metrics)
            if not how:
                second = Forked(
                    ["fit", f"--config={folder / 'config.yaml'}", f"--out={folder / name}"],
                    folder / f"second{other}",
                    None,
                )
                ends[f"second{other}"] = {"statuses": second.wait(100), "said": second.said()}
            since = time.time()
            os.kill(ranks.ranks[1 - other], signal.SIGKILL)
            ends[name] = end(ranks, 100, since, metrics)
    for rank, how in FAILS:
        name = f"{how} on {rank}"
        ranks = start(folder, name, how, rank, pytorchjob)
        ends[name] = end(ranks, 300, None, folder / name / "training" / "metrics.csv")
    for name, found in ends.items():
        print(name, found["statuses"], found.get("seconds"), [errors(text) for text in found["said"]], flush=True)
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
