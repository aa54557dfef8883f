"""The table of an index: which shards make it, in pool order, and in which volume the rows of each lie.

Rows that are left out, since an earlier one has their uid, stay where they are in the volumes: a *place* counts all
rows of the pool's shards, a *row* those that are in the index.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa

from clipsift_common.files import atomic_path
from selection.pool.location import Shard
from selection.pool.remote import Stamp
from selection.pool.volumes.volume import STORED, column, read_table, volume_at, write_table

_SHARDS, _GAPS = "shards.arrow", "left_out.npy"
FILES = (_SHARDS, _GAPS)


@dataclass(frozen=True)
class Entry:
    """A shard of a pool: which of ``volumes`` has its rows, and what there is to say of them."""

    shard: Shard
    stamp: Stamp
    size: int
    volume: str
    first: int
    count: int
    fingerprint: str
    is_claimed: bool


def write_index_table(target: Path, entries: Sequence[Entry], left_out: np.ndarray) -> None:
    """Write the table of an index into ``target``.

    Args:
        entries: in pool order.
        left_out: (k,) int64 places, ascending, of rows that are not in the index.
    """
    names = sorted({entry.volume for entry in entries})
    numbers = {name: number for number, name in enumerate(names)}
    columns = {
        "url": [os.fsencode(entry.shard.url) for entry in entries],  # names of files may be no text
        "name": [os.fsencode(entry.shard.name) for entry in entries],
        "source": [entry.shard.source for entry in entries],
        "stamp_size": [int(entry.stamp[0]) for entry in entries],
        "stamp_mark": [str(entry.stamp[1]) for entry in entries],
        "size": [entry.size for entry in entries],
        "volume": [numbers[entry.volume] for entry in entries],
        "first": [entry.first for entry in entries],
        "count": [entry.count for entry in entries],
        "fingerprint": [entry.fingerprint for entry in entries],
        "is_claimed": [entry.is_claimed for entry in entries],
    }
    with atomic_path(target / _SHARDS) as temporary:
        write_table(temporary, columns)
    with atomic_path(target / _GAPS) as temporary, open(temporary, "wb") as out:
        np.save(out, left_out - np.arange(len(left_out)), allow_pickle=False)


class IndexTable:
    """What :func:`write_index_table` wrote into ``target``, mapped; its ``volumes`` lie in ``folder``.

    Attributes:
        starts: (shards + 1,) the first row of each shard, and the end.
        shard_volumes: (shards,) the number of the volume that each lies in.
    """

    def __init__(self, target: Path, folder: Path, volumes: Sequence[str]) -> None:
        self.shards = read_table(target / _SHARDS)
        self.volumes = [volume_at(folder, name) for name in volumes]
        # (k,) how many rows are before each place that is left out: these are no places, but rows
        self._gaps: np.ndarray = np.load(target / _GAPS, mmap_mode="r", allow_pickle=False)
        self.shard_volumes, self._first, self._count = (
            column(self.shards, name) for name in ("volume", "first", "count")
        )
        self._place_starts = np.concatenate([[0], np.cumsum(self._count)]).astype(np.int64)
        self.starts = self._place_starts - np.searchsorted(self.left_out, self._place_starts)

    @property
    def left_out(self) -> np.ndarray:
        """(k,) places that are no rows, ascending."""
        return self._gaps + np.arange(len(self._gaps))

    @property
    def num_places(self) -> int:
        return int(self._place_starts[-1])

    def stamp(self, shard: int) -> Stamp:
        return [self.shards["stamp_size"][shard].as_py(), self.shards["stamp_mark"][shard].as_py()]

    def is_claimed(self, shard: int) -> bool:
        """Whether the rows of a shard are what is said of it, without their places."""
        return bool(self.shards["is_claimed"][shard].as_py())

    def whereabouts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(k,) each: the shards of ``rows`` (int64), the numbers of their volumes, and their rows there."""
        return self._of_places(self.places_at(rows))

    def places_at(self, rows: np.ndarray) -> np.ndarray:
        """(k,) the places of ``rows``."""
        return rows + np.searchsorted(self._gaps, rows, "right") if len(self._gaps) else rows

    def _of_places(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shards = self.shards_at(places)
        inside = places - self._place_starts[shards]
        return shards, self.shard_volumes[shards], self._first[shards] + inside

    def shards_at(self, places: np.ndarray) -> np.ndarray:
        """(k,) the shards of places."""
        return np.searchsorted(self._place_starts, places, "right") - 1

    def places_of(self, shard: int) -> range:
        """The places of a shard."""
        return range(int(self._place_starts[shard]), int(self._place_starts[shard + 1]))

    def entries_at(self, places: np.ndarray) -> np.ndarray:
        """(k,) rows of :data:`STORED` at places."""
        _, volumes, inside = self._of_places(places)
        found = np.empty(len(places), STORED)
        for volume in np.unique(volumes).tolist():
            mine = volumes == volume
            found[mine] = self.volumes[volume].rows()[inside[mine]]
        return found

    def uids_of(self, rows: np.ndarray) -> np.ndarray:
        """(k,) uids of ``rows``, which may lie in many volumes."""
        return self.entries_at(self.places_at(rows))["uid"]

    def places_in(self, volume: int, inside: np.ndarray) -> np.ndarray:
        """(k,) places of rows of a volume; -1 for those of shards that are not of this pool."""
        shards = self._by_volume[self._ends[volume] : self._ends[volume + 1]]
        firsts, counts = self._first[shards], self._count[shards]
        at = np.searchsorted(firsts, inside, "right") - 1
        within = inside - firsts[at]
        return np.where((at >= 0) & (within < counts[at]), self._place_starts[shards[at]] + within, -1)

    def rows_at(self, places: np.ndarray) -> np.ndarray:
        """(k,) rows at places; -1 where none is, for a place that is left out or is itself -1."""
        if not len(self._gaps):
            return places
        left_out = self.left_out
        before = np.searchsorted(left_out, places)
        gone = left_out[before.clip(max=len(left_out) - 1)] == places
        return np.where(gone | (places < 0), -1, places - before)

    @cached_property
    def _by_volume(self) -> np.ndarray:
        """The shards by volume and their places there; without those that have no rows, which lie where others do."""
        shards = np.lexsort((self._first, self.shard_volumes))
        return shards[self._count[shards] > 0]

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.searchsorted(self.shard_volumes[self._by_volume], np.arange(len(self.volumes) + 1))


class Shards(Sequence[Shard]):
    """The shards of a table, made when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self._urls, self._names = table["url"], table["name"]

    def __len__(self) -> int:
        return len(self._urls)

    @overload
    def __getitem__(self, number: int) -> Shard: ...

    @overload
    def __getitem__(self, number: slice) -> list[Shard]: ...

    def __getitem__(self, number: int | slice) -> Shard | list[Shard]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        return Shard(os.fsdecode(self._urls[number].as_py()), os.fsdecode(self._names[number].as_py()))
