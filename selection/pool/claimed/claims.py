"""What img2dataset's parquet beside a shard says is in it: one that lies elsewhere need not be fetched for that.

The samples are claimed: that a shard holds them, and where, is known when it comes
(:mod:`selection.pool.claimed.learning`).
"""

from __future__ import annotations

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError
from selection.pool.location import Shard
from selection.pool.packed.parquet_columns import STATUS, SUCCESS
from selection.pool.packed.shards import is_packed, is_parquet
from selection.pool.remote import Stamp, is_remote, patiently
from selection.pool.suffixes import without_suffix
from selection.samples.fields import Fields
from selection.uids import derive_uid, parse_uids

_UID, _KEY = "uid", "key"


def claimed_uids(shard: Shard, known: Stamp, fields: Fields) -> np.ndarray | None:
    """(n,) uids of the samples that a shard is said to hold, in its order; None where nothing says it.

    Asked are remote tars whose samples have their uids in the json, as those of img2dataset have: its parquet has a row
    for each address, in the order of the tar, and its status says which of them became samples.
    """
    url = shard.url
    if not is_remote(url) or url.startswith("pipe:") or is_packed(url) or int(known[0]) < 0:
        return None
    if fields.uid != Fields().uid:
        return None
    beside = shard.promise if isinstance(shard.promise, str) and is_parquet(shard.promise) else None
    beside = beside or without_suffix(url) + ".parquet"
    try:
        table = patiently(lambda: _successes(beside), beside)
        return None if table is None else _uids(table, shard.name)
    except (ClipsiftError, pa.ArrowException):
        return None


def _successes(url: str) -> pa.Table | None:
    with fsspec.open(url, "rb") as handle, pq.ParquetFile(handle) as file:
        names = file.schema_arrow.names
        if STATUS not in names or not {_UID, _KEY} & set(names):
            return None
        table = file.read([name for name in (STATUS, _UID, _KEY) if name in names])
    return table.filter(pc.equal(table[STATUS], SUCCESS))


def _uids(table: pa.Table, shard: str) -> np.ndarray | None:
    """What the index has as uids of these samples: theirs, or for one without, one made of shard and key."""
    uids = table[_UID].to_pylist() if _UID in table.column_names else [None] * len(table)
    if None not in uids:
        return parse_uids(table[_UID])
    if _KEY not in table.column_names:
        return None
    keys = table[_KEY].to_pylist()
    return parse_uids([derive_uid(shard, str(key)) if uid is None else uid for uid, key in zip(uids, keys)])
