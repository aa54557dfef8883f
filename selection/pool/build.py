"""The making of a pool's index: shards scanned in parallel, each kept when it is done, gathered into volumes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipsift_common.consecutive import grouped
from clipsift_common.data_report import DataReport
from clipsift_common.distributed import on_rank_zero, rank, split_over_ranks
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import (
    Contents,
    array_fingerprint,
    atomic_path,
    file_fingerprint,
    fingerprint,
    read_json,
    read_sealed,
    wait_for,
    write_sealed,
)
from clipsift_common.progress import Progress
from selection.pool.claimed.claims import claimed_uids
from selection.pool.location import Pool, Shard
from selection.pool.packed.shards import UNPACKING, fields_in_tar, is_packed, is_parquet
from selection.pool.promises import promised
from selection.pool.remote import Stamp, is_remote
from selection.pool.shard_cache import ShardCache, is_cached
from selection.pool.suffixes import STATS, without_suffix
from selection.pool.volumes.repeats import find_repeats
from selection.pool.volumes.table import FILES, Entry, IndexTable, write_index_table
from selection.pool.volumes.volume import VOLUME_ROWS, Found, volume_at, volumes_in, write_volume
from selection.samples.fields import Fields
from selection.samples.scan import FEATURE_TARS, IN_JSON, ROW_DTYPE, scan_tar

FORMAT = [7, UNPACKING]  # raised when other files are written, or other samples found: an index of before is made anew

_CLAIMED_SHARDS = 800  # that have a volume together: of 10,000 samples each, as many as others have
_ASKED = 16  # of whose claims are asked for at a time

Work = tuple[Shard, Stamp]
Key = tuple[bytes, int, str]  # a shard's name and stamp


class IndexBuilder:
    """Makes the index of ``pool`` in a folder of ``folder``, of volumes that lie beside it; a collective class.

    Args:
        stamps: what tells each shard from a changed one.
        folder: where volumes and finished parts are kept, for a start after an interruption or a change.
        workers: processes of each rank.
        cache: for remote and packed shards.
        contents: knows the files that were looked at before.
        by_claims: of remote shards, take what is said of them where something says it, and do not fetch them.
    """

    def __init__(
        self,
        pool: Pool,
        stamps: list[Stamp],
        folder: Path,
        workers: int,
        cache: ShardCache,
        contents: Contents,
        by_claims: bool = False,
    ) -> None:
        self.pool, self.stamps, self.folder = pool, stamps, folder
        self.workers, self.cache, self.contents = workers, cache, contents
        self.by_claims = by_claims and any(is_remote(shard.url) for shard in pool.shards)
        self.kind = [FORMAT, pool.fields.identity()]
        self._entries: list[Entry] = []
        self._report = DataReport()
        self._feature_tars: list[int] = []

    @property
    def parts(self) -> Path:
        return self.folder / "parts"

    def identity(self) -> str:
        """What tells this index from those of other pools, and of this one when it has changed."""
        shards = [[shard.url, shard.name, known] for shard, known in zip(self.pool.shards, self.stamps)]
        return fingerprint([self.kind, shards, *(["claims"] if self.by_claims else [])])

    def build(self, target: Path) -> None:
        """Write the index into ``target``; ``index.json`` comes last.

        Raises:
            ClipsiftError: when a shard cannot be read.
        """
        names = self._whole([volume.name for volume in on_rank_zero(lambda: volumes_in(self.folder))])
        work = on_rank_zero(lambda: self._unknown(names))
        if self.by_claims:
            pieces = [work[start : start + _CLAIMED_SHARDS] for start in range(0, len(work), _CLAIMED_SHARDS)]
            done = split_over_ranks(pieces, lambda mine: [self._claim(piece) for piece in mine])
            names = sorted({*names, *(name for name, _ in done if name)})
            work = [one for _, rest in done for one in rest]
        groups = grouped(work, split_over_ranks(work, self._scan), VOLUME_ROWS)[0]
        names = sorted({*names, *split_over_ranks(groups, lambda mine: [self._gather(group) for group in mine])})
        draft = target / "draft"  # as if nothing were repeated; of another name than what comes of it, on all disks
        names = on_rank_zero(lambda: self._list(names, draft))
        wait_for(*(draft / name for name in FILES))
        table, repeats = IndexTable(draft, self.folder, names), DataReport(logs=not rank())
        left_out = find_repeats(table, repeats)
        changed = sorted(set(table.shards_at(left_out).tolist()))
        prints = split_over_ranks(changed, lambda mine: [self._rest_of(table, shard, left_out) for shard in mine])
        on_rank_zero(lambda: self._finish(target, names, repeats, left_out, dict(zip(changed, prints))))

    def is_whole(self, target: Path) -> bool:
        """Whether ``target`` holds an index as it was written; on every rank."""

        def look() -> list[str] | None:
            about = read_sealed(target / "index.json")
            if about is None or not all((target / name).is_file() for name in FILES):
                return None
            found = self.contents.each(str(target), [target.resolve() / name for name in FILES])
            return about["volumes"] if found == about["files"] else None

        names = on_rank_zero(look)
        return names is not None and self._whole(names) == names

    def _whole(self, names: Sequence[str]) -> list[str]:
        """Those of some volumes that are of use; on every rank."""

        def look(mine: Sequence[str]) -> list[bool]:
            return [volume_at(self.folder, name).is_whole(self.contents, self.kind) for name in mine]

        return [name for name, is_whole in zip(names, split_over_ranks(names, look)) if is_whole]

    def _unknown(self, names: Sequence[str]) -> list[Work]:
        """What is to be scanned: the shards that are in no volume."""
        known = self._known(names)
        return [one for one in zip(self.pool.shards, self.stamps) if _key(*one) not in known]

    def _known(self, names: Sequence[str]) -> dict[Key, tuple[str, int]]:
        """What a shard is known by -> a volume that has it, and its number there."""
        known: dict[Key, tuple[str, int]] = {}
        for name in names:
            shards = volume_at(self.folder, name).shards
            keys = zip(*(shards[part].to_pylist() for part in ("name", "stamp_size", "stamp_mark")))
            for number, (key, is_claimed) in enumerate(zip(keys, shards["is_claimed"].to_pylist())):
                if not is_claimed or (self.by_claims and key not in known):
                    known[key] = name, number
        return known

    def _list(self, names: Sequence[str], draft: Path) -> list[str]:
        """Find every shard of the pool in the volumes and write the table of that; the volumes that it needs."""
        known, self._entries, self._report, self._feature_tars = self._known(names), [], DataReport(), []
        tables: dict[str, dict[str, list[Any]]] = {}
        for number, (shard, known_by) in enumerate(zip(self.pool.shards, self.stamps)):
            name, row = known[_key(shard, known_by)]
            if name not in tables:
                tables[name] = volume_at(self.folder, name).shards.to_pydict()
            about = {key: tables[name][key][row] for key in ("size", "first", "count", "fingerprint", "is_claimed")}
            self._entries.append(Entry(shard, known_by, volume=name, **about))
            report = json.loads(tables[name]["report"][row])
            self._report.merge(report)
            self._feature_tars += [number] if report["files"].get(FEATURE_TARS) else []
        write_index_table(draft, self._entries, np.empty(0, np.int64))
        return sorted(tables)

    def _claim(self, work: Sequence[Work]) -> tuple[str, list[Work]]:
        """Make a volume of the shards of which something says what they hold: its name, and the other shards."""
        with ThreadPoolExecutor(_ASKED) as threads:
            claims = list(threads.map(lambda one: claimed_uids(one[0], one[1], self.pool.fields), work))
        found = [self._claimed(*one, uids) for one, uids in zip(work, claims) if uids is not None]
        rest = [one for one, uids in zip(work, claims) if uids is None]
        return write_volume(self.folder, self.kind, found, self.contents).name if found else "", rest

    def _claimed(self, shard: Shard, known: Stamp, uids: np.ndarray) -> Found:
        report = DataReport(logs=False)
        report.samples = len(uids)
        load = partial(_claimed_rows, uids)
        samples = samples_fingerprint(load(), self.pool.fields)
        return Found(shard.name, known, int(known[0]), load, len(uids), samples, report.as_dict(), is_claimed=True)

    def _scan(self, work: Sequence[Work]) -> list[int]:
        """Have parts of the shards of ``work``; how many samples each has."""
        counts = [rows_in_part(self.parts, *one, self.pool.fields) for one in work]
        todo = [number for number, count in enumerate(counts) if count is None]
        scans = _ShardScans([work[number] for number in todo], self.pool.fields, self.parts, self.cache)
        loader = torch.utils.data.DataLoader(scans, batch_size=None, num_workers=min(self.workers, len(todo)))
        with Progress("index", len(work), "shards") as progress:
            progress.resume(len(work) - len(todo))
            samples, lost = 0, DataReport()
            for number, (found, report, error) in zip(todo, loader):
                if error:
                    raise ClipsiftError(error)
                counts[number] = int(found)
                samples += int(found)
                lost.merge(report, logs=True)
                notes = {"skipped": f"{lost.num_lost:,}"} if lost.num_lost else {}
                progress.advance(1, samples=f"{samples:,}", **notes)
        return [count or 0 for count in counts]

    def _gather(self, work: list[Work]) -> str:
        """Make a volume of the parts of some shards, which then go; its name."""
        volume = write_volume(self.folder, self.kind, [self._found(*one) for one in work], self.contents)
        for shard, _ in work:
            for suffix in (".json", ".npy"):
                with suppress(FileNotFoundError):
                    (self.parts / f"{shard.name}{suffix}").unlink()
        with suppress(OSError):  # others are still there
            self.parts.rmdir()
        return volume.name

    def _found(self, shard: Shard, known: Stamp) -> Found:
        about, rows = read_json(self.parts / f"{shard.name}.json"), self.parts / f"{shard.name}.npy"
        load = partial(np.load, rows, allow_pickle=False)
        return Found(shard.name, known, about["size"], load, about["count"], about["samples"], about["report"])

    def _rest_of(self, table: IndexTable, shard: int, left_out: np.ndarray) -> str:
        """The fingerprint of a shard's samples that are not left out."""
        places = table.places_of(shard)
        first, last = np.searchsorted(left_out, [places.start, places.stop])
        rest = np.setdiff1d(places, left_out[first:last])
        return samples_fingerprint(table.entries_at(rest), self.pool.fields)

    def _finish(
        self, target: Path, names: list[str], repeats: DataReport, left_out: np.ndarray, prints: dict[int, str]
    ) -> None:
        entries = [
            replace(entry, fingerprint=prints.get(number, entry.fingerprint))
            for number, entry in enumerate(self._entries)
        ]
        write_index_table(target, entries, left_out)
        files = {name: file_fingerprint(target / name) for name in FILES}
        about = {
            "kind": self.kind,
            "volumes": names,
            "fields": self.pool.fields.as_dict(),
            "fingerprint": fingerprint([entry.fingerprint for entry in entries if entry.count]),
            "report": self._report.merge(repeats).as_dict(),
            "feature_tars": self._feature_tars,
            "is_remote": any(is_remote(entry.shard.url) for entry in entries),
            "is_claimed": any(entry.is_claimed for entry in entries),
            "is_packed": any(is_packed(entry.shard.url) for entry in entries),
            "files": files,
        }
        self.contents.written(str(target), files)
        write_sealed(target / "index.json", about)
        shutil.rmtree(target / "draft", ignore_errors=True)


def _claimed_rows(uids: np.ndarray) -> np.ndarray:
    """Rows of which only the uids are known."""
    rows = np.zeros(len(uids), ROW_DTYPE)
    rows["uid"] = uids
    return rows


def _key(shard: Shard, known: Stamp) -> Key:
    return os.fsencode(shard.name), int(known[0]), str(known[1])


class _ShardScans(torch.utils.data.Dataset):
    """Scans one shard per item and writes its part; a DataLoader runs it in several processes.

    An item is (samples found, the report of them, what was wrong with the shard as a whole).
    """

    def __init__(self, work: list[Work], fields: Fields, folder: Path, cache: ShardCache) -> None:
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
        write_part(self.folder, shard.name, known, size, rows, report, self.fields)
        return len(rows), report.as_dict(), ""


def write_part(
    folder: Path, name: str, known: Stamp, size: int, rows: np.ndarray, report: DataReport, fields: Fields
) -> None:
    """Keep what was found in a shard."""
    part = folder / f"{name}.npy"
    with atomic_path(part) as temporary, open(temporary, "wb") as out:
        np.save(out, rows, allow_pickle=False)
    about = {"format": FORMAT, "stamp": known, "size": size, "report": report.as_dict(), "count": len(rows)}
    about |= {"rows": file_fingerprint(part), "fields": fields.identity()}
    write_sealed(folder / f"{name}.json", about | {"samples": samples_fingerprint(rows, fields)})


def _expected(shard: Shard, fields: Fields) -> int | None:
    """How many samples the shard holds by what says so, a file beside it or the parquet itself."""
    if isinstance(shard.promise, int):
        return shard.promise
    if shard.promise is not None:
        return promised(shard.promise, fields) if shard.promise else None
    if shard.url.startswith("pipe:"):
        return None
    return promised(shard.url if is_parquet(shard.url) else without_suffix(shard.url) + STATS, fields)


def rows_in_part(parts: Path, shard: Shard, known: Stamp, fields: Fields) -> int | None:
    """How many samples the part of a shard has; None when there is none that is as it should be."""
    about, rows = read_sealed(parts / f"{shard.name}.json"), parts / f"{shard.name}.npy"
    if about is None or not rows.is_file() or about.get("format") != FORMAT or about["stamp"] != known:
        return None
    is_current = about["fields"] == fields.identity() and about["rows"] == file_fingerprint(rows)
    return int(about["count"]) if is_current else None


def samples_fingerprint(rows: np.ndarray, fields: Fields) -> str:
    """What tells these samples (rows of an index) from others: uids, sizes, and where pictures and captions are from.

    Places count that are not the usual ones; of the usual ones, which value of a json is the caption.
    """
    of_rows = array_fingerprint(rows["uid"], rows["image_size"], rows["text_size"])
    usual, in_json = Fields(), bool((rows["text_size"] & IN_JSON).any())
    places = [fields.caption] if in_json or fields.caption != usual.caption else []
    places += [["image", *fields.image]] if fields.image != usual.image else []
    return fingerprint([of_rows, *places]) if places else of_rows
