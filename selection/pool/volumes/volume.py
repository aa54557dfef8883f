"""Volumes of an index: where the samples of a group of shards lie, and their uids in order, in files that are mapped.

A volume is written once and never changed. Pools share it: an index says which of its shards it takes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsift_common.files import Contents, file_fingerprint, fingerprint, read_sealed, write_sealed, writing
from selection.pool.remote import Stamp
from selection.samples.scan import ROW_DTYPE
from selection.uids import UID_DTYPE, search_uids, sort_key

VOLUME_ROWS = 1 << 23  # shards are gathered until they have so many: half a gigabyte, and as much memory to sort them
STRIDE = 1 << 12  # one uid in so many is kept apart, to find the others by
# A row of an index without its shard: which one of a pool's that is, the pool's index knows.
STORED = np.dtype([(name, ROW_DTYPE[name]) for name in ROW_DTYPE.names or () if name != "shard"])

_SUFFIX = ".volume"
_NOTE = "volume.json"
_TABLE = "shards.arrow"
_FILES = ("rows.bin", "uids.bin", "order.bin", "marks.bin", _TABLE)


@dataclass(frozen=True)
class Found:
    """The samples of one shard: what :meth:`load` gives, ``count`` rows of :data:`ROW_DTYPE`, and what is said of them.

    ``is_claimed``: not from the shard itself, but from what a file beside it says (:mod:`selection.pool.claimed`).
    """

    name: str
    stamp: Stamp
    size: int
    load: Callable[[], np.ndarray]
    count: int
    fingerprint: str
    report: dict[str, Any]
    is_claimed: bool = False


class Volume:
    """A volume in ``folder``; its files are opened when something of them is wanted, and closed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def rows_file(self) -> Path:
        """:data:`STORED` entries, shard by shard."""
        return self.folder / "rows.bin"

    @cached_property
    def shards(self) -> pa.Table:
        """Its shards: ``name`` (bytes), ``stamp_size``, ``stamp_mark``, ``size``, ``first``, ``count``,
        ``fingerprint``, ``report`` (JSON) and ``is_claimed``."""
        return read_table(self.folder / _TABLE)

    def rows(self) -> np.ndarray:
        """(n,) its rows, mapped."""
        return _mapped(self.rows_file, STORED)

    def uids(self) -> np.ndarray:
        """(n,) its uids in order, mapped."""
        return _mapped(self.folder / "uids.bin", UID_DTYPE)

    def order(self) -> np.ndarray:
        """(n,) which row each of :meth:`uids` is of, mapped."""
        return _mapped(self.folder / "order.bin", np.dtype("<u4"))

    @cached_property
    def marks(self) -> np.ndarray:
        """Every :data:`STRIDE`-th of its uids in order."""
        return np.fromfile(self.folder / "marks.bin", UID_DTYPE)

    def between(self, low: np.ndarray, high: np.ndarray) -> tuple[int, np.ndarray]:
        """Its uids from ``low`` on and below ``high``, arrays of one or, for an open end, none; and where they start.

        What is read is these and at most two strides more.
        """
        first = max(0, int(search_uids(self.marks, low)[0][0]) - 1) * STRIDE if len(low) else 0
        last = int(search_uids(self.marks, high)[0][0]) * STRIDE if len(high) else None
        count = -1 if last is None else max(0, last - first)
        uids = np.fromfile(self.folder / "uids.bin", UID_DTYPE, count, offset=first * UID_DTYPE.itemsize)
        start = int(search_uids(uids, low)[0][0]) if len(low) else 0
        stop = int(search_uids(uids, high)[0][0]) if len(high) else len(uids)
        return first + start, uids[start:stop]

    @property
    def name(self) -> str:
        return self.folder.name.removesuffix(_SUFFIX)

    def is_whole(self, contents: Contents, kind: Any) -> bool:
        """Whether it is of a kind (see :func:`write_volume`) and as it was written; ``contents`` knows the files that
        were looked at before."""
        about = read_sealed(self.folder / _NOTE)
        if about is None or about["kind"] != kind or not all((self.folder / name).is_file() for name in _FILES):
            return False
        return about["files"] == contents.each(str(self.folder), [self.folder.resolve() / name for name in _FILES])


def volumes_in(folder: Path) -> list[Volume]:
    """The volumes in a folder, sorted by name."""
    return [Volume(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]


def volume_at(folder: Path, name: str) -> Volume:
    return Volume(folder / f"{name}{_SUFFIX}")


def write_volume(folder: Path, kind: Any, found: Sequence[Found], contents: Contents) -> Volume:
    """Write the volume of ``found`` into ``folder``.

    Args:
        kind: what another start must want for it to be of use: format and fields.
        contents: is told what was written.
    """
    name = fingerprint([kind, *([part.name, part.stamp, part.is_claimed, part.fingerprint] for part in found)])
    volume = volume_at(folder, name)
    scratch = folder / f".{name}.{os.getpid()}.tmp"
    with writing(volume.folder):
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            _write_files(scratch, found)
            for file in _FILES:
                with open(scratch / file, "rb") as handle:
                    os.fsync(handle.fileno())
            files = {file: file_fingerprint(scratch / file) for file in _FILES}
            write_sealed(scratch / _NOTE, {"kind": kind, "files": files})
            shutil.rmtree(volume.folder, ignore_errors=True)  # one that is not as it was written
            os.replace(scratch, volume.folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    contents.written(str(volume.folder), files)
    return volume


def _write_files(folder: Path, found: Sequence[Found]) -> None:
    counts = [part.count for part in found]
    uids = np.empty(sum(counts), UID_DTYPE)
    firsts = np.cumsum([0, *counts])
    with open(folder / "rows.bin", "wb") as out:
        for part, first in zip(found, firsts.tolist()):
            rows = part.load()
            uids[first : first + len(rows)] = rows["uid"]
            stored = np.empty(len(rows), STORED)
            for name in STORED.names or ():
                stored[name] = rows[name]
            out.write(stored.tobytes())
    order = _in_order(uids)
    ordered = uids[order]
    order.astype("<u4").tofile(folder / "order.bin")
    ordered.tofile(folder / "uids.bin")
    ordered[::STRIDE].tofile(folder / "marks.bin")
    table = {
        "name": [os.fsencode(part.name) for part in found],  # which may be no text
        "stamp_size": [int(part.stamp[0]) for part in found],
        "stamp_mark": [str(part.stamp[1]) for part in found],
        "size": [part.size for part in found],
        "first": firsts[:-1],
        "count": counts,
        "fingerprint": [part.fingerprint for part in found],
        "report": [json.dumps(part.report) for part in found],
        "is_claimed": [part.is_claimed for part in found],
    }
    write_table(folder / _TABLE, table)


def _in_order(uids: np.ndarray) -> np.ndarray:
    """(n,) int64: the rows by their uids."""
    order = np.argsort(uids["f0"], kind="stable")
    high = uids["f0"][order]
    if (high[1:] == high[:-1]).any():  # of hashes, never
        return np.argsort(sort_key(uids), kind="stable")
    return order


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write columns as an Arrow file that can be mapped."""
    table = pa.table(columns).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """What :func:`write_table` wrote, mapped."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def column(table: pa.Table, name: str) -> np.ndarray:
    """A column of numbers where it lies."""
    chunks = table[name].chunks
    return chunks[0].to_numpy() if len(chunks) == 1 else table[name].to_numpy()


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
