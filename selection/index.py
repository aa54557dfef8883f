"""The index of a pool: uid -> shard, offsets and sizes. Built once, memory mapped, read sample by sample."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
import torch

from common.data_report import DataReport
from common.distributed import barrier, rank, world_size
from common.errors import ClipsiftError
from common.files import array_fingerprint, atomic_path, fingerprint, read_json, write_json
from common.progress import Progress
from selection.pool import Pool, Shard
from selection.subset import Subset
from selection.tarscan import ROW_DTYPE, scan_tar
from selection.uids import format_uids, sort_key

_OPEN_FILES = 64  # shards kept open per process
_JOIN_GAP = 1 << 14  # an image and a caption closer than this are read in one go
_CHUNK = 1 << 20  # rows looked up at a time


@dataclass(frozen=True)
class Sample:
    """One pair as it lies in the pool: undecoded image bytes and the caption."""

    uid: str
    shard: str
    key: str
    image: bytes
    caption: str


class PoolIndex:
    """Random access to the whole samples of a pool, in pool order (shard order, then tar order).

    Make one with :meth:`build`. It may be sent to other processes: each opens its own files.
    """

    def __init__(self, folder: Path) -> None:
        """Open a finished index; ``report`` holds what was lost while it was built."""
        about = read_json(folder / "index.json")
        self._folder = folder
        self.shards = [Shard(url, name) for url, name in about["shards"]]
        self._stamps: list[list[int | str]] = about["stamps"]
        self._starts: list[int] = about["starts"]
        self.fingerprint: str = about["fingerprint"]
        self.report = DataReport.from_dict(about["report"])
        self.rows: np.memmap = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False)
        self._table = open(folder / "rows.npy", "rb", buffering=0)  # noqa: SIM115 - lives as long as the index
        self._files: OrderedDict[int, Any] = OrderedDict()

    @classmethod
    def build(cls, pool: Pool, cache: str | Path, workers: int = 0, max_loss: float = 1.0) -> PoolIndex:
        """Index ``pool`` under ``cache``, or open the index that is there.

        Shards are scanned in parallel (over ranks, and ``workers`` processes in each); each finished shard is kept,
        so an interrupted build goes on where it was. A shard whose size or time of change is not the recorded one is
        scanned again.

        Raises:
            ClipsiftError: when more than ``max_loss`` of the samples cannot be used, or none can.
        """
        if not pool.shards:
            raise ClipsiftError(f"pool: {pool.location} has metadata only; this step needs its .tar shards")
        folder = Path(cache) / "index"
        stamps = [_stamp(shard) for shard in pool.shards]
        identity = fingerprint([[shard.url, shard.name, stamp] for shard, stamp in zip(pool.shards, stamps)])
        target = folder / identity
        if not (target / "index.json").is_file():
            _scan_shards(pool, stamps, folder, workers)
            barrier()
            if rank() == 0:
                _merge(pool, stamps, folder, target)
            barrier()
        index = cls(target)
        index.report.check(max_loss)
        if not len(index):
            raise ClipsiftError(f"pool: {pool.location} has no usable sample ({dict(index.report.lost)})")
        return index

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def uids(self) -> np.ndarray:
        """(n,) uids in pool order, memory mapped."""
        return self.rows["uid"]

    def entries(self, rows: Iterable[int]) -> np.ndarray:
        """(k,) entries of ``rows``, read from the file: what is touched through the map counts as this process's."""
        width, start = ROW_DTYPE.itemsize, self.rows.offset
        return np.frombuffer(
            b"".join(os.pread(self._table.fileno(), width, start + width * row) for row in rows), ROW_DTYPE
        )

    def shard_rows(self, shard: int) -> range:
        """The rows of one shard."""
        return range(self._starts[shard], self._starts[shard + 1])

    def rows_of(self, subset: Subset) -> np.ndarray:
        """(m,) int64 rows of the subset's samples that are in the pool, in pool order, repeated by multiplicity."""
        found = []
        for start in range(0, len(self), _CHUNK):
            counts = subset.multiplicity(self.uids[start : start + _CHUNK])
            found.append(np.repeat(np.arange(start, start + len(counts)), counts))
        return np.concatenate(found)

    def find(self, uids: np.ndarray) -> np.ndarray:
        """(k,) int64 rows of ``uids``; -1 for those that are not in the pool."""
        wanted = sort_key(uids)
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        result = np.full(len(uids), -1, np.int64)
        for start in range(0, len(self), _CHUNK):
            keys = sort_key(self.uids[start : start + _CHUNK])
            left = np.searchsorted(ordered, keys, "left")
            right = np.searchsorted(ordered, keys, "right")
            for row in np.flatnonzero(right > left):
                result[order[left[row] : right[row]]] = start + row
        return result

    def read(self, row: int) -> Sample:
        """The sample of a row.

        Raises:
            ClipsiftError: when its shard is gone or is not the one that was indexed.
        """
        entry = self.entries([row])[0]
        shard = self.shards[int(entry["shard"])]
        image_at, image_size = int(entry["image_offset"]), int(entry["image_size"])
        text_at, text_size = int(entry["text_offset"]), int(entry["text_size"])
        header = 512  # the member's header, which holds its name, lies right before the image
        start, stop = min(image_at - header, text_at), max(image_at + image_size, text_at + text_size)
        if stop - start <= image_size + text_size + _JOIN_GAP:
            block = self._bytes(int(entry["shard"]), start, stop - start)
            image = block[image_at - header - start : image_at + image_size - start]
            text = block[text_at - start : text_at + text_size - start]
        else:
            image = self._bytes(int(entry["shard"]), image_at - header, image_size + header)
            text = self._bytes(int(entry["shard"]), text_at, text_size)
        name = image[:100].split(b"\0", 1)[0].decode(errors="replace")
        return Sample(
            uid=f"{entry['uid']['f0']:016x}{entry['uid']['f1']:016x}",
            shard=shard.name,
            key=name.rsplit(".", 1)[0],
            image=image[header:],
            caption=text.decode("utf-8", errors="replace").strip(),
        )

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        try:
            handle = self._open(shard)
            data = os.pread(handle.fileno(), size, offset) if handle is not None else self._remote(shard, offset, size)
        except OSError as error:
            raise ClipsiftError(f"{self.shards[shard].url}: cannot be read any more ({error})") from error
        if len(data) != size:
            raise ClipsiftError(
                f"{self.shards[shard].url}: ends before byte {offset + size}; it changed since indexing"
            )
        return data

    def _open(self, shard: int) -> IO[bytes] | None:
        """The open local file of a shard, or None when the shard is remote."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        url = self.shards[shard].url
        handle = None if "://" in url else open(url, "rb")  # noqa: SIM115 - closed when it leaves the cache
        if handle is not None and not self._is_unchanged(shard, handle):
            handle.close()
            raise ClipsiftError(
                f"{url}: has another size or time of change than when it was indexed; start again to index it anew"
            )
        self._files[shard] = handle
        if len(self._files) > _OPEN_FILES:
            _, oldest = self._files.popitem(last=False)
            if oldest is not None:
                oldest.close()
        return handle

    def _is_unchanged(self, shard: int, handle: IO[bytes]) -> bool:
        now = os.fstat(handle.fileno())
        return [now.st_size, str(now.st_mtime)] == self._stamps[shard]

    def _remote(self, shard: int, offset: int, size: int) -> bytes:
        fs, path = fsspec.core.url_to_fs(self.shards[shard].url)
        return fs.cat_file(path, start=offset, end=offset + size)

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_folder"])  # type: ignore[misc]


def _stamp(shard: Shard) -> list[int | str]:
    """What changes when a shard does: its size and, where the file system tells, its time of change."""
    fs, path = fsspec.core.url_to_fs(shard.url)
    try:
        info = fs.info(path)
    except (OSError, FileNotFoundError) as error:
        raise ClipsiftError(f"{shard.url}: cannot be opened ({error})") from error
    return [int(info["size"]), str(info.get("mtime") or info.get("LastModified") or info.get("ETag") or "")]


class _ShardScans(torch.utils.data.Dataset):
    """Scans one shard per item and writes its part; a DataLoader runs it in several processes."""

    def __init__(self, work: list[tuple[Shard, list[int | str], Path]]) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work)

    def __getitem__(self, item: int) -> tuple[int, int]:
        shard, stamp, folder = self.work[item]
        with fsspec.open(shard.url, "rb") as handle:
            rows, report = scan_tar(handle, int(stamp[0]), shard, _expected(shard))
        with atomic_path(folder / f"{shard.name}.npy") as temporary, open(temporary, "wb") as out:
            np.save(out, rows, allow_pickle=False)
        write_json(folder / f"{shard.name}.json", {"stamp": stamp, "report": report.as_dict()})
        return len(rows), report.num_lost


def _expected(shard: Shard) -> int | None:
    """How many samples img2dataset wrote into the shard, from the stats file beside it."""
    fs, path = fsspec.core.url_to_fs(shard.url.removesuffix(".tar") + "_stats.json")
    try:
        return int(json.loads(fs.cat_file(path))["successes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _scan_shards(pool: Pool, stamps: list[list[int | str]], folder: Path, workers: int) -> None:
    parts = folder / "parts"
    mine = list(zip(pool.shards, stamps))[rank() :: world_size()]
    work = [(shard, stamp, parts) for shard, stamp in mine if not _part_is_current(parts, shard, stamp)]
    loader = torch.utils.data.DataLoader(_ShardScans(work), batch_size=None, num_workers=min(workers, len(work)))
    with Progress("index", len(mine), "shards") as progress:
        progress.resume(len(mine) - len(work))
        samples = lost = 0
        for found, missed in loader:
            samples += int(found)
            lost += int(missed)
            notes = {"skipped": f"{lost:,}"} if lost else {}
            progress.advance(1, samples=f"{samples:,}", **notes)


def _part_is_current(parts: Path, shard: Shard, stamp: list[int | str]) -> bool:
    about = parts / f"{shard.name}.json"
    return about.is_file() and (parts / f"{shard.name}.npy").is_file() and read_json(about)["stamp"] == stamp


def _merge(pool: Pool, stamps: list[list[int | str]], folder: Path, target: Path) -> None:
    """Join the parts, drop uids that came before, and write the index; ``index.json`` comes last."""
    report, tables = DataReport(), []
    for number, shard in enumerate(pool.shards):
        table = np.load(folder / "parts" / f"{shard.name}.npy", allow_pickle=False)
        table["shard"] = number
        tables.append(table)
        report.merge(read_json(folder / "parts" / f"{shard.name}.json")["report"])
    rows = np.concatenate(tables) if tables else np.zeros(0, ROW_DTYPE)
    _, first = np.unique(sort_key(rows["uid"]), return_index=True)
    repeated = np.ones(len(rows), bool)
    repeated[first] = False
    for row in np.flatnonzero(repeated):
        report.lose("duplicate_uid", pool.shards[rows["shard"][row]].name, format_uids(rows["uid"][row : row + 1])[0])
    rows = rows[~repeated]
    with atomic_path(target / "rows.npy") as temporary, open(temporary, "wb") as out:
        np.save(out, rows, allow_pickle=False)
    about = {
        "shards": [[shard.url, shard.name] for shard in pool.shards],
        "stamps": stamps,
        "starts": np.searchsorted(rows["shard"], np.arange(len(pool.shards) + 1)).tolist(),
        "fingerprint": array_fingerprint(rows["uid"], rows["image_size"], rows["text_size"]),
        "report": report.as_dict(),
    }
    write_json(target / "index.json", about)
