"""What test_ranks_choose.py runs: ``python ranks_choose.py FOLDER`` chooses on one, two and three forked processes."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from selection import subset_files
from selection.kernels import calendar, cut, ranks
from selection.methods import hard_cap_sampling
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.stream import choose
from selection.uids import UID_DTYPE, uid_column

SIZES = (40, 0, 7, 90, 1, 55)
TWO = [{"score": "random"}, {"score": "random", "name": "other"}]
MIX = {"score": "weighted_sum", "weights": [2.0, -1.0], "of": [{"score": "rank_sum", "of": TWO}, TWO[0]]}
SOFT = {"method": "soft_cap_sampling", "of": MIX, "count": 700, "batch_size": 60}
RECIPES = {
    "rank_sum": [{"score": "rank_sum", "of": TWO, "keep": 0.2}],
    "weighted_sum": [{"score": "random", "keep": 0.9}, MIX | {"count": 60}],
    "soft": [
        {"score": "random", "keep": 0.9},
        {"method": "soft_cap_sampling", "of": MIX, "count": 700, "batch_size": 60},
    ],
    "hard": [{"method": "hard_cap_sampling", "of": TWO[0], "count": 900, "cap": 30}],
}


def write_scores(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for number, size in enumerate(SIZES):
        scores = rng.standard_normal((2, size)).astype(np.float32)
        scores[0, ::9] = 0.25
        scores[1, 3:4] = np.nan
        table = {"uid": uid_column(np.frombuffer(rng.bytes(16 * size), UID_DTYPE))}
        table |= {"random": pa.array(scores[0]), "other": pa.array(scores[1])}
        pq.write_table(pa.table(table), folder / f"{number}.parquet")
    return sorted(folder.glob("*.parquet"))


def work(paths: list[Path], out: Path, rank: int, world_size: int) -> None:
    if world_size > 1:
        dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=world_size)
    for name, steps in RECIPES.items():
        choose(paths, ParsedRecipe.parse(steps), out / f"{name}.npy", seed=5)


def main(folder: Path) -> None:
    ranks.RUN_ROWS, ranks.STRETCH_VALUES, ranks._STRIDE = 50, 40, 4
    calendar.HELD, calendar._LISTED, cut.GATHERED, hard_cap_sampling.SAMPLE = 30, 5, 4, 70
    subset_files.RUN_UIDS, subset_files.OPEN_RUNS = 60, 2
    (folder / "scores").mkdir()
    paths = write_scores(folder / "scores")
    for world_size in (1, 2, 3):
        out = folder / f"ranks{world_size}"
        out.mkdir()
        processes = []
        for rank in range(world_size):
            processes.append(os.fork())
            if not processes[-1]:
                try:
                    work(paths, out, rank, world_size)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
        if any(os.waitpid(process, 0)[1] for process in processes):
            sys.exit(f"a process of {world_size} failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
