"""Parquet files with pictures and captions, as the Hugging Face Hub and img2dataset have them, written as tars."""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.progress import log_once
from clipsift_common.tars import BLOCK
from selection.pool.packed.parquet_columns import SUCCESS, Columns, find_columns
from selection.samples.fields import JSON, Fields, captions_at, shows

logger = logging.getLogger("clipsift")

_ROWS = 8  # decoded at a time: pictures are large
_BUFFER = 1 << 20  # bytes read at a time, else a whole column of a row group
_KEY = re.compile(r"(?:[^\0]*/)?[^./\0][^./\0]*")  # which a member's name gives back, by webdataset's rule
AS_WRITTEN = Fields(caption=["txt"])  # where the parts of a sample are in such a tar, whatever columns they are from
_STARTS = {b"\x89PNG": "png", b"RIFF": "webp"}


def write_tar(source: IO[bytes], url: str, fields: Fields, write: Callable[[bytes], None]) -> None:
    """Write each row as a sample, in order, the same bytes every time; :data:`AS_WRITTEN` are its fields then.

    Row groups that are damaged are left out; then the mark that ends a tar is left out too, so that it counts as
    truncated.

    Args:
        source: the open parquet file.
        url: what errors call it.
        fields: which columns make a sample.
        write: takes the tar's bytes.

    Raises:
        ClipsiftError: when it is no parquet file, or has no columns that make a sample.
    """
    try:
        parquet = pq.ParquetFile(source, page_checksum_verification=True, buffer_size=_BUFFER, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        text = f"is no parquet file ({first_line(error)}); get it again, or move it out of the pool"
        raise ClipsiftError(f"{url}: {text}") from error
    columns = find_columns(parquet.schema_arrow, url, fields)
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
        self._texts = columns.texts()
        self.given, self.error = 0, ""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for batch in self._batches():
                for row in _with_raw_texts(batch, self._texts).to_pylist():
                    self.given += 1
                    yield row
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            self.error = first_line(error)


def _with_raw_texts(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """The batch with columns of texts as bytes: one that is no UTF-8 must not cost the others of its row group."""
    for name in names:
        column = batch.column(name)
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            number = batch.schema.get_field_index(name)
            batch = batch.set_column(number, name, column.cast(pa.large_binary()))
    return batch


def _write_sample(write: Callable[[bytes], None], row: int, values: dict[str, Any], columns: Columns) -> None:
    key, (image, suffix) = _key(row, values.get(columns.key)), _image([values[name] for name in columns.images])
    document = _document(values.get(columns.json))
    if image is not None:
        write(_member(f"{key}.{suffix}", image))
    write(_member(f"{key}.txt", _caption(values, document, columns)))  # also an empty one: the row is counted
    about = _about(values, document, columns)
    if about is not None:
        write(_member(f"{key}.json", about.encode(errors="replace")))


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % BLOCK)


def _key(row: int, given: Any) -> str:
    """The row's own key where a tar can have it, else its number."""
    key = "" if given is None else str(given)
    return key if _KEY.fullmatch(key) else f"{row:09d}"


def _image(values: Sequence[Any]) -> tuple[bytes | None, str]:
    """The first picture that there is, and the suffix for it."""
    found = (value.get("bytes") if isinstance(value, dict) else value for value in values)
    data = next((data for data in found if data is not None), None)
    return data, next((suffix for start, suffix in _STARTS.items() if (data or b"").startswith(start)), "jpg")


def _document(given: Any) -> Any:
    """What a sample's json says; the text itself where that is none."""
    try:
        return json.loads(given) if isinstance(given, str | bytes) else given
    except (ValueError, RecursionError):
        return given


def _caption(values: dict[str, Any], document: Any, columns: Columns) -> bytes:
    """The first text that shows anything, else the first that there is."""
    texts = [text for place in columns.captions for text in _texts(place, values, document) if text]
    return next((text for text in texts if shows(text.decode(errors="replace"))), texts[0] if texts else b"")


def _texts(place: str, values: dict[str, Any], document: Any) -> Iterator[bytes]:
    if place.startswith(JSON):
        yield from (text.encode(errors="replace") for text in captions_at(place, document))
        return
    value = values[place]
    for text in value if isinstance(value, list) else [value]:
        if text is not None:
            yield text.encode(errors="replace") if isinstance(text, str) else text


def _about(values: dict[str, Any], document: Any, columns: Columns) -> str | None:
    """The sample's json, in which its uid is called so; None when there is nothing to say."""
    is_object = isinstance(document, dict)
    uids = (_uid(place, values, document if is_object else {}) for place in columns.uids)
    uid = next((uid for uid in uids if uid is not None), None)
    if not is_object and uid is None:  # whoever reads it says what is wrong with it
        given = values.get(columns.json)
        return given if given is None or isinstance(given, str) else json.dumps(given, default=str)
    others = {name: value for name, value in document.items() if name != "uid"} if is_object else {}
    return json.dumps(others | ({} if uid is None else {"uid": uid}), default=str)


def _uid(place: str, values: dict[str, Any], document: dict[str, Any]) -> Any:
    if place.startswith(JSON):
        return document.get(place.removeprefix(JSON))
    value = values[place]
    return value.hex() if isinstance(value, bytes) else value
