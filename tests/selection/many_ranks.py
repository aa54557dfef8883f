"""What test_many_ranks.py runs: ``python many_ranks.py FOLDER`` selects and exports in forked processes.

``FOLDER/ranks1`` to ``ranks3`` hold the results of so many processes; in ``FOLDER/killed*`` one was killed on the way,
right before the file that the folder's number counts, and two finished what it had begun. One import serves all.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from clipsift_common import files
from clipsift_common.machine import Machine
from helpers.pools import write_pool
from selection import subset_files
from selection.features.files import write_feature_file
from selection.kernels import calendar, ranks, tiles
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.reshard import reshard
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import parse_uids

SIZES = (40, 7, 90, 1, 55, 23, 64)
EVERY = 5  # kill before every so-manieth file
STEPS = [
    {"score": "s_cliploss", "keep": 0.8, "temperature": 0.07, "batch_size": 16, "num_batches": 3},
    {"score": "normsim", "p": "inf", "keep": 0.5},
    {"score": "metadata_column", "column": "many_ties", "keep": 0.3},
]
SET_STEPS = [
    {"score": "clip_score", "keep": 0.9},
    {"method": "vas_d", "keep": 0.6, "steps": 7},
    {"score": "random", "keep": 0.5},
    {"method": "semdedup", "epsilon": 0.4, "clusters": 5},
]


TWO = [
    {"score": "clip_score"},
    {"score": "metadata_column", "column": "many_ties"},
]
DRAWS = [
    {"score": "rank_sum", "of": TWO, "keep": 0.7},
    {
        "method": "soft_cap_sampling",
        "of": {"score": "weighted_sum", "of": TWO, "weights": [2.0, 1.0]},
        "count": 333,
        "batch_size": 40,
    },
]


def write_metadata(folder: Path) -> None:
    rng = np.random.default_rng(0)
    first = 1
    for number, count in enumerate(SIZES):
        image, text = (torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((count, 8)))) for _ in "ab")
        image[count // 2] = np.nan if number == 2 else image[count // 2]
        uids = parse_uids([f"{uid:x}" for uid in range(first, first + count)])
        captions = [""] * count
        write_feature_file(folder / "metadata", "l14", f"{number:04d}", uids, captions, image.numpy(), text.numpy())
        first += count
    np.save(folder / "target.npy", rng.standard_normal((30, 8)).astype(np.float32))
    write_pool(folder / "tars", {"0": 30, "1": 20, "2": 25})


def add_column(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted((folder / "metadata").glob("*.parquet")):
        table = pq.read_table(path)
        ties = pa.array(np.arange(len(table)) % 3, pa.float32())
        pq.write_table(table.append_column("many_ties", ties), path)


def work(folder: Path, out: Path) -> None:
    """Select among the metadata; export samples of the tars, some of them twice."""
    subset_files.RUN_UIDS = 20
    steps = [step | ({"target": str(folder / "target.npy")} if step["score"] == "normsim" else {}) for step in STEPS]
    machine = Machine(accelerator="cpu", devices=1)
    pool = Pool(str(folder / "metadata"))
    selection = Selection(None, "l14", steps, per_file=True)
    Selector(selection, pool, out, out / "cache", seed=3, machine=machine).run()
    tiles.ROW_TILE = 16  # so that every rank has some of the tiles
    by_sets = Selection(None, "l14", SET_STEPS, per_file=True)
    Selector(by_sets, pool, out / "sets", out / "cache", seed=3, machine=machine).run()
    ranks.RUN_ROWS, ranks.STRETCH_VALUES, ranks._STRIDE = 50, 40, 4
    calendar.HELD = 30
    by_draws = Selection(None, "l14", DRAWS, per_file=True)
    Selector(by_draws, pool, out / "draws", out / "cache", seed=3, machine=machine).run()
    index = PoolIndex.build(Pool(str(folder / "tars")), out / "cache")
    subset = Subset(np.concatenate([index.uids[::2], index.uids[::3]]))
    reshard(index, subset, out / "shards", shard_size=8)


def fork(job: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        torch.set_num_threads(1)
        job()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run_ranks(world_size: int, out: Path, job: Callable[[], None]) -> None:
    out.mkdir(parents=True, exist_ok=True)

    def as_rank(rank: int) -> None:
        if world_size > 1:
            meeting = f"file://{out / 'meeting'}"
            dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
        job()

    processes = [fork(lambda rank=rank: as_rank(rank)) for rank in range(world_size)]  # type: ignore[misc]
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    if any(statuses):
        sys.exit(f"{out.name}: {statuses}")


def killed(job: Callable[[], None], before: int) -> bool:
    """Whether ``job`` was killed before it put file number ``before`` in its place; it ends otherwise."""
    replace = os.replace
    count = 0

    def counting(source: Path, target: Path) -> None:
        nonlocal count
        if count == before:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        replace(source, target)

    def doomed() -> None:
        files.os.replace = counting  # type: ignore[assignment]
        job()

    return os.WIFSIGNALED(os.waitpid(fork(doomed), 0)[1])


def main(folder: Path) -> None:
    run_ranks(1, folder / "data", lambda: (write_metadata(folder), add_column(folder)))  # type: ignore[func-returns-value]
    for world_size in (1, 2, 3):
        out = folder / f"ranks{world_size}"
        run_ranks(world_size, out, lambda out=out: work(folder, out))  # type: ignore[misc]
    before = 0
    while True:
        out = folder / f"killed{before}"
        if not killed(lambda out=out: work(folder, out), before):  # type: ignore[misc]
            return
        run_ranks(2, out, lambda out=out: work(folder, out))  # type: ignore[misc]
        before += EVERY


if __name__ == "__main__":
    main(Path(sys.argv[1]))
