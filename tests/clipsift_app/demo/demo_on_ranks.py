"""What a process of the demo does, with runs that are made up: only where each rank goes is of interest."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from clipsift_app.demo import run
from clipsift_app.grid import Cell
from clipsift_common.distributed import on_rank_zero
from clipsift_common.machine import Machine
from helpers.fake_run import FakeIndex, make_run
from selection.uids import parse_uids


def make_runs(cells: list[Cell], machine: Machine) -> list[Path]:
    """Stands for ``run_cells``, whose hours are not needed here."""
    given = [dict(word.removeprefix("--").split("=", 1) for word in cell.arguments) for cell in cells]
    truth = pq.read_table(given[0]["truth"])
    index = FakeIndex(parse_uids(truth["uid"].to_pylist()), [], truth["kind"].to_pylist())
    for cell, words in zip(cells, given):
        on_rank_zero(lambda out=Path(words["out"]), name=cell.recipe: str(make_run(out, index, name=name)))
    return [Path(words["out"]) for words in given]


if __name__ == "__main__":
    run.run_cells = make_runs
    run.SIZES["small"] = {"pool_size": 120, "trusted_size": 40, "eval_size": 80}
    run.run_demo(run.DemoSettings(out=sys.argv[1], size="small", devices=int(sys.argv[2])))
    assert np.load(Path(sys.argv[1]) / "seed0/none/selection/subset.npy").size
