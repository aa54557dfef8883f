"""How many samples a shard holds by what img2dataset left beside it: its statistics, or its parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError
from selection.pool.packed.parquet_columns import STATUS, SUCCESS, holds_pictures
from selection.pool.packed.shards import is_parquet
from selection.pool.remote import is_remote, patiently
from selection.samples.fields import Fields

T = TypeVar("T")


def promised(url: str, fields: Fields) -> int | None:
    """The samples that a ``_stats.json`` or a parquet of img2dataset's speaks of; None when it says nothing.

    ``fields`` say which columns are pictures.
    """
    try:
        return _asked(url, lambda: _in_parquet(url, fields) if is_parquet(url) else _in_stats(url))
    except (ClipsiftError, OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _asked(url: str, action: Callable[[], T]) -> T:
    return patiently(action, url) if is_remote(url) else action()


def _in_stats(url: str) -> int:
    fs, path = fsspec.core.url_to_fs(url)
    return int(json.loads(fs.cat_file(path))["successes"])


def _in_parquet(url: str, fields: Fields) -> int | None:
    """It has a row for each address, and a column that says which were downloaded; or it holds the samples itself."""
    with fsspec.open(url, "rb") as handle, pq.ParquetFile(handle) as file:
        if STATUS not in file.schema_arrow.names:
            return int(file.metadata.num_rows) if holds_pictures(file.schema_arrow, fields) else None
        status = file.read([STATUS]).column(0)
        return int(pc.sum(pc.equal(status, SUCCESS)).as_py() or 0)
