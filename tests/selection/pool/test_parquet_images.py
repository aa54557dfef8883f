"""Parquet files with pictures give the samples that pyarrow finds in them, or one line that names their columns."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from clipsift_common.errors import ClipsiftError
from helpers.parquets import TABLES, hub_table, img2dataset_table, rows_of, write_parquet
from helpers.pictures import picture
from helpers.pools import write_pool
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.pool.packed import shards
from selection.uids import derive_uid, format_uids


def contents(index: PoolIndex) -> list[tuple[str, str, bytes, str]]:
    found = [index.read(row) for row in range(len(index))]
    return [(sample.uid, sample.shard, sample.image, sample.caption) for sample in found]


def build(pool: Path | str, cache: Path) -> PoolIndex:
    return PoolIndex.build(Pool(str(pool)), cache)


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "plain", {"00": 4, "01": 3}) / "shards"


def convert(tars: Path, folder: Path, layout: str, **options: int) -> Path:
    for tar in tars.glob("*.tar"):
        write_parquet(folder / f"{tar.stem}.parquet", TABLES[layout](rows_of(tar)), **options)
    return folder


@pytest.mark.parametrize("layout", TABLES)
@pytest.mark.parametrize("below", ["", "data", "shards"])
def test_every_layout_gives_the_samples_of_the_tars(tmp_path, tars, layout, below):
    convert(tars, tmp_path / "pool" / below, layout, row_group_size=2)
    plain = build(tars, tmp_path / "plain_cache")
    index = build(tmp_path / "pool" / below, tmp_path / "cache")
    assert contents(index) == contents(plain)
    assert index.fingerprint == plain.fingerprint
    assert contents(build(f"{tmp_path}/pool/{below}/*.parquet", tmp_path / "again")) == contents(plain)


def test_the_columns_that_were_used_are_said(tmp_path, tars, caplog):
    from clipsift_common.progress import log_once

    log_once.cache_clear()
    caplog.set_level("INFO", "clipsift")
    build(convert(tars, tmp_path / "pool", "hub"), tmp_path / "cache")
    assert caplog.text.count("pictures from column image, captions from text, uids from uid") == 1


def test_without_uids_they_are_derived_like_those_of_tars(tmp_path):
    rows = [{"key": f"{row:09d}", "image": picture(row), "caption": f"c {row}"} for row in range(3)]
    keyed = pa.table({"jpg": [row["image"] for row in rows], "caption": ["c"] * 3, "key": ["a", "b", "photo.1"]})
    bare = pa.table({"image": [row["image"] for row in rows], "text": ["c"] * 3})
    write_parquet(tmp_path / "pool" / "00.parquet", keyed)
    write_parquet(tmp_path / "pool" / "01.parquet", bare)
    index = build(tmp_path / "pool", tmp_path / "cache")
    keys = [("00", "a"), ("00", "b"), ("00", "000000002"), *(("01", f"{row:09d}") for row in range(3))]
    assert format_uids(index.uids) == [derive_uid(*key) for key in keys]


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_rows_that_lack_something_are_counted_one_by_one(tmp_path):
    whole = {"bytes": picture(1), "path": "1.jpg"}
    table = pa.table(
        {
            "image": pa.array([whole, None, {"bytes": None, "path": "x.jpg"}, whole, whole, whole, None, whole], IMAGE),
            "text": ["a", "b", "c", None, " \u200b", "f", None, "h"],
            "uid": ["1", "2", "3", "4", "5", "no hex", "7", None],
        }
    )
    write_parquet(tmp_path / "pool" / "00.parquet", table)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert dict(index.report.lost) == {"missing_image": 3, "missing_caption": 2, "bad_uid": 1}
    assert (len(index), index.report.samples) == (2, 8)


def test_kinds_of_columns_and_pictures(tmp_path):
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(buffer, "PNG")
    table = pa.table(
        {
            "PNG": pa.array([buffer.getvalue(), picture(2)], pa.large_binary()),
            "Captions": pa.array([["", "second"], ["only"]], pa.list_(pa.large_string())),
            "embedding": pa.array([[1.0], [2.0]]),
        }
    )
    write_parquet(tmp_path / "pool" / "00.parquet", table)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert [index.read(row).caption for row in (0, 1)] == ["second", "only"]
    with index.open_shard(0) as tar, tarfile.open(fileobj=tar) as archive:
        assert archive.getnames() == ["000000000.png", "000000000.txt", "000000001.jpg", "000000001.txt"]


def test_a_caption_that_is_no_utf8_costs_nothing(tmp_path):
    texts = pa.array([b"one", b"caf\xe9", b"three"]).view(pa.string())
    write_parquet(tmp_path / "00.parquet", pa.table({"image": [picture(row) for row in range(3)], "text": texts}))
    index = build(tmp_path / "00.parquet", tmp_path / "cache")
    assert [index.read(row).caption for row in range(3)] == ["one", "caf\ufffd", "three"]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_captions_of_every_kind_of_text(tmp_path, kind):
    texts = pa.array(["one", "two", "one", None])
    texts = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    write_parquet(tmp_path / "00.parquet", pa.table({"image": [picture(row) for row in range(4)], "text": texts}))
    index = build(tmp_path / "00.parquet", tmp_path / "cache")
    assert [index.read(row).caption for row in range(3)] == ["one", "two", "one"]
    assert dict(index.report.lost) == {"missing_caption": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image": [b"x"], "label": [3]}, r"no column of captions \(text, .*it has image \(binary\), label \(int64\)"),
        ({"thumbs": [b"x"], "text": ["a"]}, r"no column of pictures \(image, .*it has thumbs \(binary\), text \(str"),
        ({"image": ["x.jpg"], "text": ["a"]}, r"no column of pictures .*it has image \(string\), text \(string\)"),
    ],
)
def test_columns_that_make_no_sample_are_named(tmp_path, table, message):
    path = write_parquet(tmp_path / "00.parquet", pa.table(table))
    with pytest.raises(ClipsiftError, match=rf"00\.parquet: {message}"):
        build(path, tmp_path / "cache")


def test_a_damaged_row_group_loses_its_rows_alone(tmp_path, tars, caplog):
    rows = rows_of(tars / "00.tar") + rows_of(tars / "01.tar")
    path = write_parquet(tmp_path / "pool" / "00.parquet", hub_table(rows), row_group_size=3, compression="none")
    data = bytearray(path.read_bytes())
    place = data.index(rows[3]["image"]) + 100  # in the second group
    data[place] ^= 0xFF
    path.write_bytes(data)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert [int(uid, 16) for uid in format_uids(index.uids)] == [1, 2, 3, 7]
    assert dict(index.report.lost) == {"truncated_tar": 3}
    assert "00.parquet: rows 3 and on are damaged" in caplog.text


@pytest.mark.parametrize("data", [b"PAR1", b"<html></html>" * 40, b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"])
def test_what_is_no_parquet_is_named(tmp_path, tars, data):
    convert(tars, tmp_path / "pool", "hub")
    (tmp_path / "pool" / "02.parquet").write_bytes(data)
    with pytest.raises(ClipsiftError, match=r"02\.parquet: is no parquet file .*get it again"):
        build(tmp_path / "pool", tmp_path / "cache")


def test_parquets_and_tars_of_one_pool_are_all_read(tmp_path, tars):
    convert(tars, tmp_path / "pool", "hub")
    write_pool(tmp_path / "pool" / "more", {"02": 2}, start=8)
    write_parquet(tmp_path / "pool" / "notes.parquet", pa.table({"uid": ["1"], "score": [0.5]}))
    assert [int(uid, 16) for uid in format_uids(build(tmp_path / "pool", tmp_path / "cache").uids)] == [*range(1, 10)]


def test_downloads_that_failed_are_no_samples(tmp_path, tars):
    table = img2dataset_table([*rows_of(tars / "00.tar"), {"key": "9", "image": None, "caption": "c", "uid": "9"}])
    table = table.append_column("status", pa.array(["success"] * 4 + ["failed_to_download"]))
    write_parquet(tmp_path / "pool" / "00.parquet", table)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert (len(index), index.report.samples, index.report.num_lost) == (4, 4, 0)


def test_a_bomb_of_repeated_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FLOOR", 1 << 20)
    monkeypatch.setattr(shards, "MOST_TIMES", 10)
    table = pa.table({"image": [bytes(1 << 16)] * 400, "text": ["a"] * 400})  # 26 MB, one dictionary entry
    write_parquet(tmp_path / "00.parquet", table, compression="zstd")
    with pytest.raises(ClipsiftError, match=r"00\.parquet: unpacks to more than"):
        build(tmp_path / "00.parquet", tmp_path / "cache")


def test_a_file_of_metadata_is_still_metadata(tmp_path):
    rows = [{"key": "a", "image": b"", "caption": "c", "uid": "1"}]
    write_parquet(tmp_path / "00.parquet", img2dataset_table(rows).drop_columns(["jpg"]))
    pool = Pool(str(tmp_path))
    assert (len(pool.shards), len(pool.metadata)) == (0, 1)
