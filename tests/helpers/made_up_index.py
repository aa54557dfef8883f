"""Indexes of pools whose shards hold nothing: the rows are made up and left where an interrupted start leaves them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clipsift_common.data_report import DataReport
from selection.pool.build import write_part
from selection.pool.location import Pool
from selection.pool.remote import stamp
from selection.samples.fields import Fields
from selection.samples.scan import ROW_DTYPE
from selection.uids import UID_DTYPE


def made_up_pool(folder: Path, cache: Path, shards: Iterable[tuple[str, np.ndarray]]) -> Pool:
    """A pool of empty tars below ``folder``, and under ``cache`` a part for each: its name and (n,) uids.

    Places are a row's number: ``image_offset`` is 1000 times that in the shard, and one more the size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, uids in shards:
        path = folder / f"{name}.tar"
        path.touch()
        rows = np.zeros(len(uids), ROW_DTYPE)
        rows["uid"], rows["image_offset"] = uids, 1000 * np.arange(len(uids))
        rows["image_size"] = rows["image_offset"] + 1
        report = DataReport(logs=False)
        report.samples = len(uids)
        write_part(cache / "index" / "parts", name, stamp(str(path)), 0, rows, report, Fields())
    return Pool(str(folder))


def random_uids(rng: np.random.Generator, count: int, distinct: int) -> np.ndarray:
    """(count,) uids of at most ``distinct`` squared: halves repeat apart and together."""
    uids = np.zeros(count, UID_DTYPE)
    for half in ("f0", "f1"):
        uids[half] = rng.integers(distinct, size=count).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return uids
