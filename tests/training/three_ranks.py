"""What ``test_three_processes.py`` runs on each rank: ``python three_ranks.py WORKSPACE OUT``.

Goes on with the runs ``OUT/from<k>`` that one process has begun, and begins ``OUT/three`` for one to go on with; writes
``OUT/<run>.<rank>.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from clipsift_common.distributed import rank
from clipsift_common.launch import launch
from clipsift_common.machine import Machine
from helpers.training_run import FailAt, RecordingCLIP, data_options
from training.data import PoolDataModule
from training.fit import fit

STEPS, BATCH, NUM_KEPT = 8, 12, 24  # two steps are a pass
CELLS = ((1, 0), (2, 1), (4, 3), (7, 0))  # where one process stopped, workers of those that go on
STOP = 4  # of the run that three processes begin: the end of a pass


def train(workspace: Path, out: Path, machine: Machine, workers: int = 0, stop: int | None = None) -> dict[str, Any]:
    """This rank's record of a run, begun or gone on with, that ends before ``stop``."""
    module = RecordingCLIP(str(workspace / "tiny.json"))
    changes = {"global_batch": BATCH, "samples_seen": STEPS * BATCH, "subset": str(workspace / "even.npy")}
    data = PoolDataModule(**data_options(workspace, out) | changes | {"workers": workers})
    options: dict[str, Any] = {"log_every_n_steps": 1, "callbacks": [] if stop is None else [FailAt(stop)]}
    try:
        fit(module, data, out, machine, checkpoint_steps=1, options=options)
    except ZeroDivisionError:
        assert stop is not None
    return module.record


def main(workspace: Path, out: Path) -> None:
    torch.set_num_threads(1)
    machine = launch(Machine(accelerator="cpu", devices=3))
    records = {f"from{stop}": train(workspace, out / f"from{stop}", machine, workers) for stop, workers in CELLS}
    records["three"] = train(workspace, out / "three", machine, stop=STOP)
    for name, record in records.items():
        (out / f"{name}.{rank()}.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
