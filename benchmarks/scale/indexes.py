"""An index of made-up parts: making it, opening it, the rows of a subset found once and opened again."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.scale.part import Part
from clipsift_common.data_report import DataReport
from selection.pool.build import write_part
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.pool.remote import stamp
from selection.samples.fields import Fields
from selection.samples.scan import ROW_DTYPE
from selection.subset import Subset
from selection.uids import UID_DTYPE

SHARD_ROWS = 10_000  # as img2dataset's shards
KEPT = 5  # one row in so many


def parts(rows: int, folder: Path) -> None:
    """Empty tars, and of each the part that scanning it would have left, with random uids; one in 10,000 is repeated.

    Beside them the subset of every fifth row.
    """
    (folder / "pool").mkdir()
    kept = []
    for number, start in enumerate(range(0, rows, SHARD_ROWS)):
        path = folder / "pool" / f"{number:08d}.tar"
        path.touch()
        table = np.zeros(min(SHARD_ROWS, rows - start), ROW_DTYPE)
        table["uid"] = np.frombuffer(np.random.default_rng(number).bytes(16 * len(table)), UID_DTYPE)
        if number:
            table["uid"][0] = np.frombuffer(np.random.default_rng(number - 1).bytes(48), UID_DTYPE)[2]
        table["image_offset"] = np.arange(len(table)) * 32768
        table["image_size"] = table["text_size"] = 1000
        report = DataReport(logs=False)
        report.samples = len(table)
        write_part(folder / "cache/index/parts", path.stem, stamp(str(path)), 0, table, report, Fields())
        kept.append(table["uid"][1::KEPT])
    Subset(np.concatenate(kept)).save(folder / "subset.npy")


def whole(rows: int, folder: Path) -> str:
    """Make the index of the parts, open it, find the subset's rows, open those."""
    said = []
    for what in (_open, _open, _find, _find):
        start, used = time.perf_counter(), time.process_time()
        found = what(folder)
        said.append(f"{found} {time.perf_counter() - start:.1f} s (CPU of one {time.process_time() - used:.1f} s)")
    return ", ".join(said)


def _open(folder: Path) -> str:
    index = PoolIndex.build(Pool.shared(str(folder / "pool")), folder / "cache")
    index.entries(np.linspace(0, len(index) - 1, 10).astype(int).tolist())
    repeated = index.report.lost["duplicate_uid"]
    return f"index of {len(index):,} rows, {repeated:,} repeated, in {len(index.table.volumes)} volumes:"


def _find(folder: Path) -> str:
    index = PoolIndex.build(Pool.shared(str(folder / "pool")), folder / "cache")
    kept = index.kept("subset", partial(Subset.load, folder / "subset.npy"))
    return f"index and {len(kept.rows):,} kept rows:"


PARTS = {"index": Part(parts, whole, (10_000_000, 30_000_000, 100_000_000), 2)}
