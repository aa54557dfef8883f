"""What ``test_full_disks.py`` runs: ``python full_disks.py WORKSPACE DISK`` starts a run on two ranks again and again.

Each start goes on with what is in ``DISK/run``, until the disk is really filled right before a certain file is written;
the last one is left alone. Writes ``WORKSPACE/ends.json``: of each start the status and the words of each rank, and the
seconds from the full disk to its end.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from clipsift_common import files
from evaluation import results
from helpers.machines.forked import Forked
from training import metrics

FILLED_BEFORE = {  # by what is then written
    "config": "run/config.yaml",
    "index": "run/cache/index/parts/*.npy",
    "teacher": "run/cache/teacher/*/training/last.ckpt",
    "features": "run/cache/features/*/*.npz",
    "scores": "run/cache/scores/*/*.parquet",
    "subset": "run/selection/subset.npy",
    "metrics": "run/training/metrics.csv",
    "checkpoint": "run/training/last.ckpt",
    "weights": "run/training/model/*.safetensors",
    "results": "run/evaluation/eval_results.jsonl",
    "report": "run/report/*",
    "nothing": "",
}


def fill(disk: Path) -> None:
    with suppress(OSError), open(disk / "filler", "ab", buffering=0) as handle:
        while True:
            handle.write(b"a" * 4096)


def fill_before(pattern: str, disk: Path, mark: Path) -> None:
    """From now on, in this process; ``mark`` is made when it is done."""
    writing = files.writing

    @contextmanager
    def filling(path: str | Path) -> Iterator[None]:
        if pattern and Path(path).match(str(disk / pattern)) and not mark.exists():
            mark.touch()
            fill(disk)
        with writing(path):
            yield

    for module in (files, results, metrics):
        module.writing = filling  # type: ignore[attr-defined]


def end(ranks: Forked, mark: Path) -> dict[str, Any]:
    statuses = ranks.wait(300)
    seconds = time.time() - mark.stat().st_mtime if mark.exists() else 0.0
    return {"statuses": statuses, "said": ranks.said(), "seconds": round(seconds, 1)}


def main(folder: Path, disk: Path) -> None:
    torch.set_num_threads(1)
    config = f"--config={folder / 'config.yaml'}"
    ends = {}
    for what, pattern in FILLED_BEFORE.items():
        mark = folder / f"{what}.full"
        arguments = ["reproduce", config, f"--out={disk / 'run'}"]
        ranks = Forked(arguments, folder / what, prepare=partial(fill_before, pattern, disk, mark))
        ends[what] = end(ranks, mark)
        (disk / "filler").unlink(missing_ok=True)
    whole = Forked(["select", config, f"--out={folder / 'run'}"], folder / "elsewhere")
    ends["elsewhere"] = end(whole, folder / "elsewhere.full")
    (disk / "log").touch()
    (folder / "log.0.err").symlink_to(disk / "log")
    fill(disk)
    ends["log"] = end(Forked(["select", config, f"--out={folder / 'other'}"], folder / "log"), disk / "filler")
    (folder / "ends.json").write_text(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
