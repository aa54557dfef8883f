"""Parquet files with pictures and captions, in the layouts of the Hugging Face Hub and of img2dataset."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]


def rows_of(tar: Path) -> Rows:
    """The samples of a whole tar, read by ``tarfile``: key, image, caption, uid."""
    rows: dict[str, dict[str, Any]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, extension = member.name.split(".", 1)
            rows.setdefault(key, {"key": key})[extension] = archive.extractfile(member).read()  # type: ignore[union-attr]
    return [
        {"key": row["key"], "image": row["jpg"], "caption": row["txt"].decode(), "uid": json.loads(row["json"])["uid"]}
        for row in rows.values()
    ]


def hub_table(rows: Rows) -> pa.Table:
    """As ``datasets`` writes pictures: a struct of bytes and path; the caption in ``text``."""
    images = pa.array([{"bytes": row["image"], "path": f"{row['key']}.jpg"} for row in rows])
    texts, uids = [row["caption"] for row in rows], [row["uid"] for row in rows]
    return pa.table({"url": ["https://x"] * len(rows), "image": images, "text": texts, "uid": uids})


def img2dataset_table(rows: Rows) -> pa.Table:
    """As img2dataset's ``output_format: parquet``: bytes in ``jpg``, and its own key."""
    columns = {"caption": "caption", "key": "key", "uid": "uid", "jpg": "image"}
    return pa.table({name: [row[field] for row in rows] for name, field in columns.items()})


def converted_table(rows: Rows) -> pa.Table:
    """As the Hub makes a parquet of webdataset's tars."""
    table = {
        "jpg": [{"bytes": row["image"], "path": None} for row in rows],
        "txt": [row["caption"] for row in rows],
        "json": [{"uid": row["uid"], "width": 32} for row in rows],
        "__key__": [row["key"] for row in rows],
        "__url__": ["hf://x.tar"] * len(rows),
    }
    return pa.table(table)


TABLES = {"hub": hub_table, "img2dataset": img2dataset_table, "converted": converted_table}


def write_parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    """The file, with checksums of its pages; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True, **options)
    path.write_bytes(buffer.getvalue())
    return path
