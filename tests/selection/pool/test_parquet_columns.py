"""The columns of parquet files with pictures are settable by the words that say where a tar's parts are."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clipsift_common.errors import ClipsiftError
from helpers.parquets import write_parquet
from helpers.pictures import picture
from helpers.pools import sample, write_pool
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.reshard import reshard
from selection.samples.fields import Fields
from selection.subset import Subset
from selection.uids import derive_uid, format_uids

COUNT = 4
PICTURES = [picture(row) for row in range(COUNT)]
UIDS = [f"{row + 1:032x}" for row in range(COUNT)]


def build(folder: Path, columns: dict[str, Any], cache: str = "cache", **fields: Any) -> PoolIndex:
    if not (folder / "pool" / "00.parquet").exists():
        write_parquet(folder / "pool" / "00.parquet", pa.table(columns))
    return PoolIndex.build(Pool(str(folder / "pool"), Fields(**fields)), folder / cache)


def captions(index: PoolIndex) -> list[str]:
    return [index.read(row).caption for row in range(len(index))]


def test_columns_of_any_name_can_be_read(tmp_path: Path) -> None:
    columns = {"Foto": PICTURES, "ALT": ["a", "b", "c", "d"], "Sample_ID": UIDS, "width": [1] * COUNT}
    index = build(tmp_path, columns, image=["foto"], caption=["alt"], uid=["sample_id"])
    assert (captions(index), format_uids(index.uids)) == (["a", "b", "c", "d"], UIDS)
    assert [index.read(row).image for row in range(COUNT)] == PICTURES
    assert (index.report.samples, index.report.num_lost, dict(index.report.noted)) == (COUNT, 0, {})


def test_the_named_columns_come_before_the_usual_ones(tmp_path: Path) -> None:
    columns = {
        "image": PICTURES,
        "thumb": PICTURES[::-1],
        "text": ["t"] * COUNT,
        "recap": ["r"] * COUNT,
        "uid": UIDS,
        "mine": UIDS[::-1],
    }
    usual = build(tmp_path, columns)
    assert (captions(usual), usual.read(0).image, format_uids(usual.uids)) == (["t"] * COUNT, PICTURES[0], UIDS)
    other = build(tmp_path, columns, image=["thumb"], caption=["recap"], uid=["mine"])  # the same cache
    assert (captions(other), other.read(0).image) == (["r"] * COUNT, PICTURES[-1])
    assert format_uids(other.uids) == UIDS[::-1]
    assert captions(usual) == ["t"] * COUNT  # whose unpacked tar is another one
    same_sizes = build(tmp_path, columns, caption=["recap"])
    assert len({usual.fingerprint, same_sizes.fingerprint}) == 2


def test_of_several_columns_the_first_that_has_something_counts_row_by_row(tmp_path: Path) -> None:
    documents = [{"uid": UIDS[0]}, {"title": "of the json", "uid": UIDS[1]}, {"title": "x", "uid": UIDS[2]}, {}]
    columns = {
        "image": pa.array([None, *PICTURES[1:]], pa.binary()),
        "jpg": pa.array([PICTURES[0], PICTURES[0], None, None], pa.binary()),
        "recap": ["first", " \u200b", None, None],
        "texts": pa.array([["no"], None, ["", "third"], ["fourth"]], pa.list_(pa.string())),
        "json": [json.dumps(document) for document in documents],
        "id": [None, None, None, UIDS[3]],
    }
    index = build(tmp_path, columns, caption=["recap", "json:title", "texts"], uid=["id", "json:uid"])
    assert captions(index) == ["first", "of the json", "x", "fourth"]
    assert [index.read(row).image for row in range(COUNT)] == PICTURES
    assert format_uids(index.uids) == UIDS


@pytest.mark.parametrize("of_struct", [False, True])
def test_a_caption_and_a_uid_in_the_json(tmp_path: Path, of_struct: bool) -> None:
    documents = [{"title": f"title {row}", "sha": UIDS[row], "uid": UIDS[0]} for row in range(COUNT)]
    texts = documents if of_struct else [json.dumps(document) for document in documents]
    index = build(tmp_path, {"jpg": PICTURES, "json": texts}, caption=["json:title"], uid=["json:sha"])
    assert captions(index) == [f"title {row}" for row in range(COUNT)]
    assert format_uids(index.uids) == UIDS


def test_without_a_place_of_uids_they_are_derived_whatever_the_file_has(tmp_path: Path) -> None:
    columns = {"jpg": PICTURES, "text": ["t"] * COUNT, "uid": UIDS, "json": [json.dumps({"uid": UIDS[0]})] * COUNT}
    index = build(tmp_path, columns, uid=[])
    assert format_uids(index.uids) == [derive_uid("00", f"{row:09d}") for row in range(COUNT)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image": ["photo_bytes"]},
            r"no column of pictures \(photo_bytes\); it has jpg \(binary\), text ",
        ),
        ({"caption": ["alt", "json:x"]}, r"no column of captions \(alt, json:x\); it has jpg .*name one in fields.cap"),
        ({"caption": ["n"]}, r"no column of captions \(n\); it has jpg \(binary\), text \(string\), n \(int64\)"),
        ({"uid": ["sha256"]}, r"no column of uids \(sha256\); it has jpg .*name one in fields\.uid"),
    ],
)
def test_the_refusal_names_the_columns_that_there_are(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(ClipsiftError, match=rf"00\.parquet: {message}"):
        build(tmp_path, {"jpg": PICTURES, "text": ["t"] * COUNT, "n": [1] * COUNT}, **fields)


def test_tars_and_parquets_of_one_pool_take_the_same_words(tmp_path: Path) -> None:
    tar = [m for row in range(COUNT) for m in sample(f"k{row}", 10 + row, txt=None, alt=f"alt {row}".encode())]
    write_tar(tmp_path / "pool" / "01.tar", tar)
    columns = {"jpg": PICTURES, "alt": [f"column {row}" for row in range(COUNT)], "text": ["t"] * COUNT, "uid": UIDS}
    index = build(tmp_path, columns, caption=["alt"])
    assert captions(index) == [f"column {row}" for row in range(COUNT)] + [f"alt {row}" for row in range(COUNT)]
    written = reshard(index, Subset(index.uids), tmp_path / "out")
    assert written["kept"] == 2 * COUNT
    with tarfile.open(tmp_path / "out" / "00000000.tar") as archive:
        found = {name.split("-")[0]: archive.extractfile(name).read() for name in archive.getnames() if "jpg" in name}
    assert [found[uid] for uid in UIDS] == PICTURES


def test_fields_of_dotted_keys_do_not_matter_to_a_parquet(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", {"01": 2}, start=9)
    index = build(tmp_path, {"jpg": PICTURES, "text": ["t"] * COUNT, "uid": UIDS}, keys="last_dot")
    assert np.array_equal(index.starts, [0, COUNT, COUNT + 2])
