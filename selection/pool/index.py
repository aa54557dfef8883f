"""The index of a pool: uid -> shard, offsets and sizes. Built once, memory mapped, read sample by sample."""

from __future__ import annotations

import errno
import os
import queue
import resource
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from clipsift_common.data_report import DataReport
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import Contents, fingerprint, read_json, wait_for
from clipsift_common.progress import track
from clipsift_common.tar_samples import split_name
from selection.pool.build import FORMAT, build_index, is_whole, samples_fingerprint
from selection.pool.left_out_report import logged_report
from selection.pool.location import Pool, Shard
from selection.pool.packed.shards import fields_in_tar, is_packed
from selection.pool.remote import Stamp, changed, gone, is_remote, patiently, read_range, stamp, stamp_of
from selection.pool.shard_cache import ShardCache, is_cached
from selection.samples.fields import Fields
from selection.samples.scan import IN_JSON, ROW_DTYPE, count_extensions
from selection.subset import Subset
from selection.uids import sort_key

_OPEN_FILES = 64  # shards kept open per process, where a quarter of what it may open is as many
SHARD_CACHE_GB = 100.0  # of remote and unpacked shards kept on this machine
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

    Attributes:
        stamps: of each shard, what tells it from a changed one.
        feature_tars: the shards that hold features instead of samples.
        by_ranges: read the samples of remote shards one by one, with a request each, instead of fetching whole shards
            into the cache. For few samples, or an order that jumps about. Packed shards are unpacked whole either way.
    """

    def __init__(self, folder: Path, cache: ShardCache | None = None) -> None:
        """Open a finished index; ``report`` holds what was lost while it was built, ``cache`` its remote shards."""
        about = read_json(folder / "index.json")
        self._folder = folder
        self.shards = [Shard(url, name) for url, name in about["shards"]]
        self.sizes: list[int] = about["sizes"]  # bytes of each shard
        self.stamps: list[Stamp] = about["stamps"]
        self.starts: list[int] = about["starts"]  # first row of each shard, and the end
        self.fields = Fields(**about.get("fields", {}))
        self.feature_tars: list[int] = about["feature_tars"]
        self.fingerprint: str = about["fingerprint"]
        self._shard_fingerprints: list[str] | None = about.get("shard_fingerprints")
        self.report = DataReport.from_dict(about["report"])
        self.rows: np.memmap = np.load(folder / "rows.npy", mmap_mode="r", allow_pickle=False)
        self._table = open(folder / "rows.npy", "rb", buffering=0)  # noqa: SIM115 - lives as long as the index
        self._files: OrderedDict[int, IO[bytes]] = OrderedDict()
        self.cache = cache or ShardCache(folder.parents[1] / "shards", int(SHARD_CACHE_GB * 1e9), self.fields)
        self._ahead: queue.SimpleQueue[int] | None = None
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
    ) -> PoolIndex:
        """Index ``pool`` under ``cache``, or open the index that is there.

        Shards are scanned in parallel (over ranks, and ``workers`` processes in each); each finished shard is kept,
        so an interrupted build resumes. A shard whose size or time of change is not the recorded one is
        scanned again. Remote shards are fetched for it and packed ones unpacked, into ``<cache>/shards``, which never
        holds more than ``shard_cache_gb`` gigabytes.

        A collective call.

        Raises:
            ClipsiftError: when more than ``max_loss`` of the samples cannot be used, or none can. Samples in files of
                the pool that are left out count as lost.
        """
        if not pool.shards:
            raise ClipsiftError(f"pool: {pool.location} has metadata only; this step needs its .tar shards")
        folder = Path(cache) / "index"
        shard_cache = ShardCache(Path(cache) / "shards", int(shard_cache_gb * 1e9), pool.fields)
        stamps = on_rank_zero(lambda: _stamps(pool.shards))
        shards = [[shard.url, shard.name, known] for shard, known in zip(pool.shards, stamps)]
        fields = pool.fields.identity()
        identity = fingerprint([FORMAT, *shards, *([fields] if fields else [])])
        target = folder / identity
        if not on_rank_zero(lambda: is_whole(target, Contents(Path(cache) / "contents"))):
            build_index(pool, stamps, folder, target, workers, shard_cache)
        wait_for(target / "index.json", target / "rows.npy")
        index = cls(target, shard_cache)
        if not len(index):
            raise ClipsiftError(f"pool: {pool.location} has no usable sample: {on_rank_zero(index.found_instead)}")
        samples, sizes = index.report.samples, index.sizes
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

    def fields_in(self, shard: int) -> Fields:
        """Which members of a shard's tar make a sample."""
        return fields_in_tar(self.shards[shard].url, self.fields)

    def shard_rows(self, shard: int) -> range:
        """The rows of one shard."""
        return range(self.starts[shard], self.starts[shard + 1])

    @cached_property
    def shard_fingerprints(self) -> list[str]:
        """What :attr:`fingerprint` is for the pool, for each shard; an index of an earlier release does not have it."""
        known, rows = self._shard_fingerprints, self.rows
        return known or [samples_fingerprint(rows[a:b], self.fields) for a, b in pairwise(self.starts)]

    def content_name(self, shard: int) -> str:
        """A file name for what is made of a shard, in a folder that several pools and states of a pool share."""
        return f"{self.shards[shard].name}-{self.shard_fingerprints[shard]}"

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

    @property
    def is_streamed(self) -> bool:
        """Whether shards are fetched whole from elsewhere."""
        return not self.by_ranges and any(is_remote(shard.url) for shard in self.shards)

    @property
    def is_cached(self) -> bool:
        """Whether shards are read from the cache, where they are fetched or unpacked whole."""
        return any(map(self._in_cache, self.shards))

    def cached_sizes(self) -> list[int]:
        """Bytes of each shard that is read from the cache."""
        return [size for shard, size in zip(self.shards, self.sizes) if self._in_cache(shard)]

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

    def open_shard(self, shard: int) -> IO[bytes]:
        """A shard as a local tar, fetched or unpacked if it must be; the caller closes it.

        Raises:
            ClipsiftError: when it is gone or is not the one that was indexed.
        """
        url = self.shards[shard].url
        if is_cached(url):
            handle = self.cache.open(url, self.stamps[shard])
            same = os.fstat(handle.fileno()).st_size == self.sizes[shard]
        else:
            try:
                handle = open(url, "rb")  # noqa: SIM115 - the caller's
            except OSError as error:
                raise gone(url, error) from error
            same = stamp_of(os.fstat(handle.fileno())) == self.stamps[shard]
        if not same:
            handle.close()
            raise changed(url)
        return handle

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        url = self.shards[shard].url
        if not is_cached(url):
            data = self._pread(self._kept_open(shard), url, offset, size)
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
            if stamp(url) != self.stamps[shard]:
                raise ClipsiftError(f"{url}: has changed since it was indexed; start again to index it anew")
            self._checked.add(shard)
        data = patiently(partial(read_range, url, offset, offset + size, self.sizes[shard]), url)
        return data if len(data) == size else data[offset : offset + size]

    def _kept_open(self, shard: int) -> IO[bytes]:
        """The open local file of a shard."""
        if shard in self._files:
            self._files.move_to_end(shard)
            return self._files[shard]
        try:
            handle = self.open_shard(shard)
        except ClipsiftError as error:
            if getattr(error.__cause__, "errno", None) not in (errno.EMFILE, errno.ENFILE) or not self._files:
                raise
            while self._files:  # the rest of the program has taken the room for them
                self._files.popitem()[1].close()
            handle = self.open_shard(shard)
        self._files[shard] = handle
        if len(self._files) > min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4):
            self._files.popitem(last=False)[1].close()
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self._folder, "cache": self.cache, "by_ranges": self.by_ranges}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"], state["cache"])  # type: ignore[misc]
        self.by_ranges = state["by_ranges"]


def _stamps(shards: Sequence[Shard]) -> list[Stamp]:
    with ThreadPoolExecutor(16) as threads:  # a request each, where shards are remote
        stamps = threads.map(lambda shard: stamp(shard.url), shards)
        return list(track(stamps, "look at shards", len(shards), "shards", brief=True))
