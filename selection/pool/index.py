"""The index of a pool: uid -> shard, offsets and sizes. Built once, memory mapped, read sample by sample."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipsift_common.data_report import DataReport
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import Contents, read_json, wait_for
from clipsift_common.tar_samples import split_name
from selection.pool.build import IndexBuilder
from selection.pool.claimed.learning import Absent, Learner
from selection.pool.left_out_report import logged_report
from selection.pool.location import Pool, Shard
from selection.pool.open_files import OpenFiles
from selection.pool.packed.shards import fields_in_tar, is_packed
from selection.pool.remote import changed, gone, is_remote, patiently, read_range, stamp, stamp_of, stamps_of
from selection.pool.shard_cache import ShardCache, is_cached
from selection.pool.volumes.kept import KeptRows, is_kept, keep_rows, open_kept, row_dtype, rows_in
from selection.pool.volumes.table import IndexTable, Shards
from selection.pool.volumes.volume import STORED, column
from selection.samples.fields import Fields
from selection.samples.scan import IN_JSON, ROW_DTYPE, count_extensions
from selection.subset import Subset
from selection.uids import format_uids, search_uids

SHARD_CACHE_GB = 100.0  # of remote and unpacked shards kept on this machine
_JOIN_GAP = 1 << 14  # an image and a caption closer than this are read in one go


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

    Make one with :meth:`build`. It may be sent to other processes: each opens its own files. What is large of it is
    mapped, so that all processes of a machine share one copy, and read where it is needed.

    Attributes:
        stamps: of each shard, what tells it from a changed one.
        feature_tars: the shards that hold features instead of samples.
        feature_tars: the shards that hold features instead of samples.
        by_ranges: read the samples of remote shards one by one, with a request each, instead of fetching whole shards
            into the cache. For few samples, or an order that jumps about. Packed shards are unpacked whole either way.
        table: which rows of which volumes make the index.
    """

    def __init__(self, folder: Path, cache: ShardCache | None = None) -> None:
        """Open a finished index; ``report`` holds what was lost while it was built, ``cache`` its remote shards."""
        about = read_json(folder / "index.json")
        self.folder = folder
        self.table = IndexTable(folder, folder.parent, about["volumes"])
        self.shards = Shards(self.table.shards)
        self.sizes = column(self.table.shards, "size")  # bytes of each shard
        self.starts = self.table.starts  # first row of each shard, and the end
        self.fields = Fields(**about["fields"])
        self.feature_tars: list[int] = about["feature_tars"]
        self.fingerprint: str = about["fingerprint"]
        self.report = DataReport.from_dict(about["report"])
        self._is_remote, self._is_packed = about["is_remote"], about["is_packed"]
        self._files = OpenFiles(self._open)
        self.cache = cache or ShardCache(folder.parents[1] / "shards", int(SHARD_CACHE_GB * 1e9), self.fields)
        self._ahead: queue.SimpleQueue[int] | None = None
        self._is_claimed, self._learner = about["is_claimed"], Learner(folder.parent / "parts", self.fields)
        self._checked: set[int] = set()
        self.by_ranges = False

    @classmethod
    def build(
        cls,
        pool: Pool,
        cache: str | Path,
        workers: int = 0,
        max_loss: float = 1.0,
        shard_cache_gb: float = SHARD_CACHE_GB,
        by_claims: bool = False,
    ) -> PoolIndex:
        """Index ``pool`` under ``cache``, or open the index that is there.

        Shards are scanned in parallel (over ranks, and ``workers`` processes in each); each finished shard is kept,
        so an interrupted build resumes. A shard whose size or time of change is not the recorded one is
        scanned again. Remote shards are fetched for it and packed ones unpacked, into ``<cache>/shards``, which never
        holds more than ``shard_cache_gb`` gigabytes.

        ``by_claims``: a remote shard whose samples img2dataset's parquet beside it lists is not fetched. Where its
        samples lie is found when the first of them is read; one that is not there raises :class:`Absent` then.

        A collective call.

        Raises:
            ClipsiftError: when more than ``max_loss`` of the samples cannot be used, or none can. Samples in files of
                the pool that are left out count as lost.
        """
        if not pool.shards:
            raise ClipsiftError(f"pool: {pool.location} has metadata only; this step needs its .tar shards")
        folder = Path(cache) / "index"
        shard_cache = ShardCache(Path(cache) / "shards", int(shard_cache_gb * 1e9), pool.fields)
        stamps = stamps_of([shard.url for shard in pool.shards])
        contents = Contents(Path(cache) / "contents")
        builder = IndexBuilder(pool, stamps, folder, workers, shard_cache, contents, by_claims)
        target = folder / on_rank_zero(builder.identity)
        if not builder.is_whole(target):
            builder.build(target)
        wait_for(target / "index.json")
        index = cls(target, shard_cache)
        if not len(index):
            raise ClipsiftError(f"pool: {pool.location} has no usable sample: {on_rank_zero(index.found_instead)}")
        samples, sizes = index.report.samples, index.sizes.tolist()
        left_out = on_rank_zero(lambda: logged_report(pool, "shards", samples, lambda _: sizes))
        index.report.merge(left_out)
        index.report.check(max_loss)
        return index

    def found_instead(self) -> str:
        """What a pool without samples has: why they were lost, and the members of its first shard."""
        causes = ", ".join(f"{count:,} {cause}" for cause, count in self.report.lost.most_common())
        with self.open_shard(0) as handle:
            members = count_extensions(handle, self.fields_in(0))
        first = next(iter(next(iter(self.report.examples.values()), [])), {"detail": ""})
        detail = f" ({first['detail']})" if first["detail"] else ""
        return f"{causes}{detail}; {self.shards[0].url} holds {members}. Say in fields where the parts of a sample are"

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def uids(self) -> np.ndarray:
        """(n,) uids in pool order, in memory: for small pools; see :meth:`uids_of`."""
        return self.uids_of(range(len(self)))

    def uids_of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """(k,) uids of ``rows``."""
        if isinstance(rows, range):
            rows = np.arange(rows.start, rows.stop, rows.step)
        return self.table.uids_of(np.asarray(rows, np.int64))

    def entries(self, rows: Iterable[int]) -> np.ndarray:
        """(k,) entries of ``rows``, read from files: what is touched through a map counts as this process's."""
        shards, volumes, inside = self.table.whereabouts(np.fromiter(rows, np.int64))
        width = STORED.itemsize
        data = [
            os.pread(self._files[self.table.volumes[volume].rows_file].fileno(), width, width * row)
            for volume, row in zip(volumes.tolist(), inside.tolist())
        ]
        stored, found = np.frombuffer(b"".join(data), STORED), np.empty(len(shards), ROW_DTYPE)
        for name in STORED.names or ():
            found[name] = stored[name]
        found["shard"] = shards
        return found

    def fields_in(self, shard: int) -> Fields:
        """Which members of a shard's tar make a sample."""
        return fields_in_tar(self.shards[shard].url, self.fields)

    def shard_rows(self, shard: int) -> range:
        """The rows of one shard."""
        return range(int(self.starts[shard]), int(self.starts[shard + 1]))

    def content_name(self, shard: int) -> str:
        """A file name for what is made of a shard, in a folder that several pools and states of a pool share."""
        return f"{self.shards[shard].name}-{self.shard_fingerprint(shard)}"

    def shard_fingerprint(self, shard: int) -> str:
        """What :attr:`fingerprint` is for the pool, for a shard."""
        return str(self.table.shards["fingerprint"][shard].as_py())

    def rows_of(self, subset: Subset) -> np.ndarray:
        """(m,) rows of the subset's samples that are in the pool, in pool order, repeated by multiplicity; in memory.

        What is trained on is kept: see :meth:`kept`.
        """
        found = [rows_in(self.table, volume, subset) for volume in range(len(self.table.volumes))]
        return np.sort(np.concatenate(found)).astype(row_dtype(len(self)))

    def kept(self, subset: str, load: Callable[[], Subset]) -> KeptRows:
        """The rows of a subset, found once and kept with the index; a collective call.

        Args:
            subset: fingerprint of its uids.
            load: gives it, when it is needed.
        """
        folder, contents = self.folder / f"kept-{subset}", Contents(self.folder.parents[1] / "contents")
        if not on_rank_zero(lambda: is_kept(folder, contents)):
            keep_rows(self.table, load(), folder, contents)
        return open_kept(folder)

    def find(self, uids: np.ndarray) -> np.ndarray:
        """(k,) int64 rows of ``uids``; -1 for those that are not in the pool."""
        result = np.full(len(uids), -1, np.int64)
        for number, volume in enumerate(self.table.volumes):
            ordered, order = volume.uids(), volume.order()
            left, right = search_uids(ordered, uids)
            for wanted in np.flatnonzero(right > left).tolist():
                inside = order[left[wanted] : right[wanted]].astype(np.int64)
                rows = self.table.rows_at(self.table.places_in(number, inside))
                result[wanted] = max(result[wanted], rows.max())
        return result

    def read(self, row: int) -> Sample:
        """The sample of a row.

        Raises:
            ClipsiftError: when its shard is gone or is not the one that was indexed.
            Absent: when its shard was said to have it and has not.
        """
        entry = self.entries([row])[0]
        if not entry["image_size"]:
            entry = self._placed(row, int(entry["shard"]))
        shard = self.shards[int(entry["shard"])]
        image_at, image_size = int(entry["image_offset"]), int(entry["image_size"])
        text_at, text_size = int(entry["text_offset"]), int(entry["text_size"]) & ~IN_JSON
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
        is_json = bool(int(entry["text_size"]) & IN_JSON)
        fields = self.fields_in(int(entry["shard"]))
        caption = fields.caption_in(text) if is_json else text.decode("utf-8", errors="replace")
        return Sample(
            uid=f"{entry['uid']['f0']:016x}{entry['uid']['f1']:016x}",
            shard=shard.name,
            key=(split_name(name, fields.keys) or (name, ""))[0],
            image=image[header:],
            caption=caption.strip(),
        )

    def _placed(self, row: int, shard: int) -> np.ndarray:
        """The entry of a row that is claimed, its shard fetched if it must be."""
        places, place = self.table.places_of(shard), int(self.table.places_at(np.array([row]))[0])

        def uids() -> np.ndarray:
            return self.table.entries_at(np.arange(places.start, places.stop))["uid"]

        entries = self._learner.places(shard, uids, partial(self._learn, shard))
        entry = entries[place - places.start].copy()
        if not entry["image_size"]:
            raise Absent(self.shards[shard].name, format_uids(self.uids_of([row]))[0])
        entry["shard"] = shard
        return entry

    def _learn(self, shard: int) -> np.ndarray:
        return self._learner.learn(self.shards[shard], self.table.stamp(shard), partial(self.open_shard, shard))

    @property
    def is_streamed(self) -> bool:
        """Whether shards are fetched whole from elsewhere."""
        return bool(self._is_remote and not self.by_ranges)

    @property
    def is_cached(self) -> bool:
        """Whether shards are read from the cache, where they are fetched or unpacked whole."""
        return bool(self._is_packed or self.is_streamed)

    def cached_sizes(self) -> list[int]:
        """Bytes of each shard that is read from the cache."""
        return [size for shard, size in zip(self.shards, self.sizes.tolist()) if self._in_cache(shard)]

    def _in_cache(self, shard: Shard) -> bool:
        return is_packed(shard.url) or (is_remote(shard.url) and not self.by_ranges)

    def fetch_ahead(self, rows: Iterable[int]) -> None:
        """Have the shards of these rows fetched, one after the other, while this process does other things."""
        if self._ahead is None:
            self._ahead = queue.SimpleQueue()
            threading.Thread(target=self._fetch_queue, args=(self._ahead,), daemon=True).start()
        for entry in self.entries(rows):
            self._ahead.put(int(entry["shard"]))

    def _fetch_queue(self, wanted: queue.SimpleQueue[int]) -> None:
        while True:
            shard = wanted.get()
            with suppress(ClipsiftError):  # whoever reads the shard will meet the same error
                self.open_shard(shard).close()
                if self._is_claimed and self.table.is_claimed(shard):
                    self._learn(shard)

    def open_shard(self, shard: int) -> IO[bytes]:
        """A shard as a local tar, fetched or unpacked if it must be; the caller closes it.

        Raises:
            ClipsiftError: when it is gone or is not the one that was indexed.
        """
        url = self.shards[shard].url
        if is_cached(url):
            handle = self.cache.open(url, self.table.stamp(shard))
            same = os.fstat(handle.fileno()).st_size == self.sizes[shard]
        else:
            try:
                handle = open(url, "rb")  # noqa: SIM115 - the caller's
            except OSError as error:
                raise gone(url, error) from error
            same = stamp_of(os.fstat(handle.fileno())) == self.table.stamp(shard)
        if not same:
            handle.close()
            raise changed(url)
        return handle

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        url = self.shards[shard].url
        if not is_cached(url):
            data = self._pread(self._files[shard], url, offset, size)
        elif not self._in_cache(self.shards[shard]):
            data = self._request(shard, offset, size)
        else:  # not kept open: a file that the cache has deleted must not go on taking room
            with self.open_shard(shard) as handle:
                data = self._pread(handle, url, offset, size)
        if len(data) != size:
            raise ClipsiftError(f"{url}: ends before byte {offset + size}; it changed since indexing")
        return data

    @staticmethod
    def _pread(handle: IO[bytes], url: str, offset: int, size: int) -> bytes:
        try:
            return os.pread(handle.fileno(), size, offset)
        except OSError as error:
            raise gone(url, error) from error

    def _request(self, shard: int, offset: int, size: int) -> bytes:
        url = self.shards[shard].url
        if shard not in self._checked:
            if stamp(url) != self.table.stamp(shard):
                raise ClipsiftError(f"{url}: has changed since it was indexed; start again to index it anew")
            self._checked.add(shard)
        data = patiently(partial(read_range, url, offset, offset + size, self.sizes[shard]), url)
        return data if len(data) == size else data[offset : offset + size]

    def _open(self, what: int | Path) -> IO[bytes]:
        """A local shard, or a file of rows."""
        return self.open_shard(what) if isinstance(what, int) else open(what, "rb", buffering=0)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "cache": self.cache, "by_ranges": self.by_ranges}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["cache"])  # type: ignore[misc]
        self.by_ranges = state["by_ranges"]
