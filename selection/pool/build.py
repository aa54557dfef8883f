"""The making of a pool's index: shards scanned in parallel, each kept when it is done, then joined."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipsift_common.data_report import DataReport
from clipsift_common.distributed import barrier, on_rank_zero, rank, world_size
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import (
    Contents,
    array_fingerprint,
    atomic_path,
    file_fingerprint,
    fingerprint,
    read_json,
    read_sealed,
    write_sealed,
)
from clipsift_common.progress import Progress, track
from selection.pool.location import Pool, Shard
from selection.pool.packed.shards import UNPACKING, fields_in_tar, is_parquet
from selection.pool.promises import promised
from selection.pool.remote import Stamp
from selection.pool.shard_cache import ShardCache, is_cached
from selection.pool.suffixes import STATS, without_suffix
from selection.samples.fields import Fields
from selection.samples.scan import FEATURE_TARS, IN_JSON, ROW_DTYPE, scan_tar
from selection.uids import format_uids, sort_key

FORMAT = [6, UNPACKING]  # raised when other files are written, or other samples found: an index of before is made anew


def build_index(pool: Pool, stamps: list[Stamp], folder: Path, target: Path, workers: int, cache: ShardCache) -> None:
    """Write the index of ``pool`` into ``target``; a collective call.

    Args:
        stamps: what tells each shard from a changed one.
        folder: where finished parts are kept, for a start after an interruption or a change.
        workers: processes of each rank.
        cache: for remote and packed shards.

    Raises:
        ClipsiftError: when a shard cannot be read.
    """
    _scan_shards(pool, stamps, folder, workers, cache)
    barrier()
    on_rank_zero(lambda: _merge(pool, stamps, folder, target))


class _ShardScans(torch.utils.data.Dataset):
    """Scans one shard per item and writes its part; a DataLoader runs it in several processes.

    An item is (samples found, the report of them, what was wrong with the shard as a whole).
    """

    def __init__(self, work: list[tuple[Shard, Stamp]], fields: Fields, folder: Path, cache: ShardCache) -> None:
        self.work, self.fields, self.folder, self.cache = work, fields, folder, cache

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, item: int) -> tuple[int, dict[str, Any], str]:
        shard, known = self.work[item]
        try:
            handle = self.cache.open(shard.url, known) if is_cached(shard.url) else open(shard.url, "rb")  # noqa: SIM115
        except ClipsiftError as error:
            return 0, {}, str(error)
        except OSError as error:
            return 0, {}, f"{shard.url}: cannot be opened ({first_line(error)})"
        with handle:
            size = os.fstat(handle.fileno()).st_size
            rows, report = scan_tar(
                handle, shard.name, _expected(shard, self.fields), fields_in_tar(shard.url, self.fields)
            )
        part = self.folder / f"{shard.name}.npy"
        with atomic_path(part) as temporary, open(temporary, "wb") as out:
            np.save(out, rows, allow_pickle=False)
        about = {"format": FORMAT, "stamp": known, "size": size, "report": report.as_dict()}
        about |= {"rows": file_fingerprint(part), "fields": self.fields.identity()}
        write_sealed(self.folder / f"{shard.name}.json", about)
        return len(rows), report.as_dict(), ""


def _expected(shard: Shard, fields: Fields) -> int | None:
    """How many samples the shard holds by what says so, a file beside it or the parquet itself."""
    if isinstance(shard.promise, int):
        return shard.promise
    if shard.promise is not None:
        return promised(shard.promise, fields) if shard.promise else None
    if shard.url.startswith("pipe:"):
        return None
    return promised(shard.url if is_parquet(shard.url) else without_suffix(shard.url) + STATS, fields)


def _scan_shards(pool: Pool, stamps: list[Stamp], folder: Path, workers: int, cache: ShardCache) -> None:
    parts = folder / "parts"
    mine = list(zip(pool.shards, stamps))[rank() :: world_size()]
    work = [(shard, known) for shard, known in mine if not _part_is_current(parts, shard, known, pool.fields)]
    scans = _ShardScans(work, pool.fields, parts, cache)
    loader = torch.utils.data.DataLoader(scans, batch_size=None, num_workers=min(workers, len(work)))
    with Progress("index", len(mine), "shards") as progress:
        progress.resume(len(mine) - len(work))
        samples, lost = 0, DataReport()
        for found, report, error in loader:
            if error:
                raise ClipsiftError(error)
            samples += int(found)
            lost.merge(report, logs=True)
            notes = {"skipped": f"{lost.num_lost:,}"} if lost.num_lost else {}
            progress.advance(1, samples=f"{samples:,}", **notes)


def _part_is_current(parts: Path, shard: Shard, known: Stamp, fields: Fields) -> bool:
    about, rows = read_sealed(parts / f"{shard.name}.json"), parts / f"{shard.name}.npy"
    if about is None or not rows.is_file() or about.get("format") != FORMAT or about["stamp"] != known:
        return False
    return about["fields"] == fields.identity() and about["rows"] == file_fingerprint(rows)


def _merge(pool: Pool, stamps: list[Stamp], folder: Path, target: Path) -> None:
    """Join the parts, drop uids that came before, and write the index; ``index.json`` comes last."""
    report, tables, sizes, feature_tars = DataReport(), [], [], []
    for number, shard in enumerate(track(pool.shards, "join the index", unit="shards", brief=True)):
        table = np.load(folder / "parts" / f"{shard.name}.npy", allow_pickle=False)
        table["shard"] = number
        tables.append(table)
        about = read_json(folder / "parts" / f"{shard.name}.json")
        sizes.append(about["size"])
        report.merge(about["report"])
        feature_tars += [number] if about["report"]["files"].get(FEATURE_TARS) else []
    rows = np.concatenate(tables) if tables else np.zeros(0, ROW_DTYPE)
    rows = _without_repeats(rows, pool.shards, report)
    table_file = target / "rows.npy"
    with atomic_path(table_file) as temporary, open(temporary, "wb") as out:
        np.save(out, rows, allow_pickle=False)
    starts = np.searchsorted(rows["shard"], np.arange(len(pool.shards) + 1)).tolist()
    about = {
        "shards": [[shard.url, shard.name] for shard in pool.shards],
        "stamps": stamps,
        "sizes": sizes,
        "starts": starts,
        "fields": pool.fields.as_dict(),
        "feature_tars": feature_tars,
        "fingerprint": samples_fingerprint(rows, pool.fields),
        "shard_fingerprints": [samples_fingerprint(rows[a:b], pool.fields) for a, b in pairwise(starts)],
        "report": report.as_dict(),
        "rows": file_fingerprint(table_file),
    }
    write_sealed(target / "index.json", about)


def _without_repeats(rows: np.ndarray, shards: list[Shard], report: DataReport) -> np.ndarray:
    """The first row of each uid. The others are lost; but what another of the joined pools has too is one sample."""
    keys = sort_key(rows["uid"])
    unique, first = np.unique(keys, return_index=True)
    repeated = np.ones(len(rows), bool)
    repeated[first] = False
    for row, earlier in zip(np.flatnonzero(repeated), first[np.searchsorted(unique, keys[repeated])]):
        here, there = shards[rows["shard"][row]], shards[rows["shard"][earlier]]
        uid, where = format_uids(rows["uid"][row : row + 1])[0], f"{there.name} has it"
        if here.source == there.source:
            report.lose("duplicate_uid", here.name, uid, where)
        else:
            report.samples -= 1
            report.ignore("uid_of_another_pool", here.name, uid, where)
    return rows[~repeated]


def is_whole(target: Path, contents: Contents) -> bool:
    """Whether ``target`` holds an index as it was written; ``contents`` knows the files that were looked at before."""
    about, rows = read_sealed(target / "index.json"), target / "rows.npy"
    return about is not None and rows.is_file() and about["rows"] == contents.of(str(rows))


def samples_fingerprint(rows: np.ndarray, fields: Fields) -> str:
    """What tells these samples (rows of an index) from others: uids, sizes, and where pictures and captions are from.

    Places count that are not the usual ones; of the usual ones, which value of a json is the caption.
    """
    of_rows = array_fingerprint(rows["uid"], rows["image_size"], rows["text_size"])
    usual, in_json = Fields(), bool((rows["text_size"] & IN_JSON).any())
    places = [fields.caption] if in_json or fields.caption != usual.caption else []
    places += [["image", *fields.image]] if fields.image != usual.image else []
    return fingerprint([of_rows, *places]) if places else of_rows
