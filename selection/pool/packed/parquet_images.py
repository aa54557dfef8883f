"""Parquet files with pictures and captions, as the Hugging Face Hub and img2dataset have them, written as tars."""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.progress import log_once
from clipsift_common.tars import BLOCK
from selection.pool.packed.parquet_columns import SUCCESS, Columns, find_columns

logger = logging.getLogger("clipsift")

_ROWS = 8  # decoded at a time: pictures are large
_BUFFER = 1 << 20  # bytes read at a time, else a whole column of a row group
_KEY = re.compile(r"(?:[^\0]*/)?[^./\0][^./\0]*")  # which a member's name gives back, by webdataset's rule
_STARTS = {b"\x89PNG": "png", b"RIFF": "webp"}


def write_tar(source: IO[bytes], url: str, write: Callable[[bytes], None]) -> None:
    """Write each row as a sample, in order, the same bytes every time.

    Row groups that are damaged are left out; then the mark that ends a tar is left out too, so that it counts as
    truncated.

    Args:
        source: the open parquet file.
        url: what errors call it.
        write: takes the tar's bytes.

    Raises:
        ClipsiftError: when it is no parquet file, or has no columns that make a sample.
    """
    try:
        parquet = pq.ParquetFile(source, page_checksum_verification=True, buffer_size=_BUFFER, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        text = f"is no parquet file ({first_line(error)}); get it again, or move it out of the pool"
        raise ClipsiftError(f"{url}: {text}") from error
    columns = find_columns(parquet.schema_arrow, url)
    log_once(f"parquet: {columns}")
    first, is_whole = 0, True
    for group in range(parquet.num_row_groups):
        rows = _Rows(parquet, group, columns)
        for row, values in enumerate(rows, first):
            if values.get(columns.status, SUCCESS) == SUCCESS:
                _write_sample(write, row, values, columns)
        if rows.error:
            is_whole = False
            logger.warning("%s: rows %d and on are damaged (%s); left out", url, first + rows.given, rows.error)
        first += parquet.metadata.row_group(group).num_rows
    if is_whole:
        write(bytes(2 * BLOCK))


class _Rows:
    """The rows of a row group as far as they can be read: ``given`` so many, then the ``error``, if any."""

    def __init__(self, parquet: pq.ParquetFile, group: int, columns: Columns) -> None:
        self._batches = lambda: parquet.iter_batches(_ROWS, [group], columns.names())
        self._caption = columns.caption
        self.given, self.error = 0, ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for batch in self._batches():
                for row in _with_raw_text(batch, self._caption).to_pylist():
                    self.given += 1
                    yield row
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            self.error = first_line(error)


def _with_raw_text(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """The batch with a column of texts as bytes: one that is no UTF-8 must not cost the others of its row group."""
    column = batch.column(name)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return batch
    return batch.set_column(batch.schema.get_field_index(name), name, column.cast(pa.large_binary()))


def _write_sample(write: Callable[[bytes], None], row: int, values: dict[str, Any], columns: Columns) -> None:
    key, (image, suffix) = _key(row, values.get(columns.key)), _image(values[columns.image])
    if image is not None:
        write(_member(f"{key}.{suffix}", image))
    write(_member(f"{key}.txt", _caption(values[columns.caption])))  # also an empty one: the row is counted
    about = _about(values, columns)
    if about is not None:
        write(_member(f"{key}.json", about.encode()))


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % BLOCK)


def _key(row: int, given: Any) -> str:
    """The row's own key where a tar can have it, else its number."""
    key = "" if given is None else str(given)
    return key if _KEY.fullmatch(key) else f"{row:09d}"


def _image(value: Any) -> tuple[bytes | None, str]:
    data = value.get("bytes") if isinstance(value, dict) else value
    return data, next((suffix for start, suffix in _STARTS.items() if (data or b"").startswith(start)), "jpg")


def _caption(value: bytes | list[str | None] | None) -> bytes:
    """The text, or the first of several that is not empty."""
    if isinstance(value, list):
        return next((text for text in value if text), "").encode()
    return value or b""


def _about(values: dict[str, Any], columns: Columns) -> str | None:
    """The sample's json, which names its uid; None when there is nothing to say."""
    given = values[columns.uid] if columns.uid else values.get(columns.json)
    if given is None:
        return None
    if columns.uid:
        return json.dumps({"uid": given.hex() if isinstance(given, bytes) else given}, default=str)
    return given if isinstance(given, str) else json.dumps(given, default=str)
