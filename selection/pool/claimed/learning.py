"""Where the samples of a claimed shard lie: found when it is here, once on a machine, and kept as a part."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from clipsift_common.images import ImageError
from selection.pool.build import rows_in_part, write_part
from selection.pool.location import Shard
from selection.pool.remote import Stamp
from selection.pool.shard_cache import held
from selection.samples.fields import Fields
from selection.samples.scan import ROW_DTYPE, scan_tar
from selection.uids import sort_key

_SHARDS = 128  # whose places a process has at hand; two windows of 64


class Absent(ImageError):
    """A sample that was claimed and that its shard does not have, or not whole."""

    def __init__(self, shard: str, uid: str) -> None:
        super().__init__("absent_sample", "the parquet beside the shard lists it")
        self.shard, self.key = shard, uid


class Learner:
    """The places of claimed samples, shard by shard.

    Args:
        parts: folder for what was found; an index that is made later finds it there, too.
        fields: which members of a tar make a sample.
    """

    def __init__(self, parts: Path, fields: Fields) -> None:
        self.parts, self.fields = parts, fields
        self._places: OrderedDict[int, np.ndarray] = OrderedDict()

    def places(self, number: int, uids: Callable[[], np.ndarray], learn: Callable[[], np.ndarray]) -> np.ndarray:
        """(n,) entries of the samples with ``uids`` in a shard; of size 0 for one that is not there.

        ``learn`` gives all entries of the shard, when they are not at hand.
        """
        if number not in self._places:
            there, wanted = learn(), sort_key(uids())
            keys = sort_key(there["uid"])
            order = np.argsort(keys, kind="stable")
            at = np.searchsorted(keys[order], wanted)
            found = np.zeros(len(wanted), ROW_DTYPE)
            hits = np.flatnonzero(at < len(keys))
            hits = hits[keys[order[at[hits]]] == wanted[hits]]
            found[hits] = there[order[at[hits]]]
            self._places[number] = found
            if len(self._places) > _SHARDS:
                self._places.popitem(last=False)
        self._places.move_to_end(number)
        return self._places[number]

    def learn(self, shard: Shard, known: Stamp, opened: Callable[[], IO[bytes]]) -> np.ndarray:
        """All entries of a shard, which ``opened`` opens when no process of this machine has looked at it before."""
        part, lock = self.parts / f"{shard.name}.npy", self.parts / f".{shard.name}.lock"
        self.parts.mkdir(parents=True, exist_ok=True)
        with held(lock):
            if rows_in_part(self.parts, shard, known, self.fields) is None:
                with opened() as handle:
                    rows, report = scan_tar(handle, shard.name, None, self.fields)
                write_part(self.parts, shard.name, known, int(known[0]), rows, report, self.fields)
            rows = np.load(part, allow_pickle=False)
            lock.unlink(missing_ok=True)
        return rows
