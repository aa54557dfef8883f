from __future__ import annotations

import dataclasses
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from helpers.pictures import picture
from helpers.pools import sample, write_pool
from helpers.tars import Members, write_tar
from selection.pool.build import IndexBuilder
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from selection.uids import derive_uid, format_uids, parse_uids

FILES = [f"*.volume/{name}.bin" for name in ("rows", "uids", "order", "marks")]
FILES += ["*.volume/shards.arrow", "*.volume/volume.json"]
FILES += [f"*[0-9a-f]/{name}" for name in ("index.json", "left_out.npy", "shards.arrow")]


def build(folder: Path, cache: Path, **options: float) -> PoolIndex:
    return PoolIndex.build(Pool(str(folder)), cache, **options)  # type: ignore[arg-type]


def test_every_form_of_location_finds_the_same_shards(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"00000000": 1, "00000001": 1})
    shards = root / "shards"
    expected = ["00000000", "00000001"]
    for location in (root, shards, f"{shards}/*.tar", f"{shards}/{{00000000..00000001}}.tar", f"file://{shards}"):
        assert [shard.name for shard in Pool(str(location)).shards] == expected, location
    both = Pool(f"{shards}/00000000.tar::{shards}/00000001.tar")
    assert [shard.name for shard in both.shards] == expected


@pytest.mark.parametrize("location", ["nowhere", "nowhere/*.tar", "nowhere/{0..3}.tar"])
def test_a_missing_pool_is_said_to_be_missing(tmp_path: Path, location: str) -> None:
    with pytest.raises(ClipsiftError, match="does not exist"):
        Pool(str(tmp_path / location))


def test_a_pool_named_twice_is_refused(tmp_path: Path) -> None:
    write_pool(tmp_path / "a", {"0": 1})
    with pytest.raises(ClipsiftError, match=r"a/shards/0\.tar is named twice"):
        Pool(f"{tmp_path}/a::{tmp_path}/a")


def test_samples_are_found_and_read_back(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 3, "1": 2})
    index = build(root, tmp_path / "cache")
    assert [int(uid, 16) for uid in format_uids(index.uids)] == [1, 2, 3, 4, 5]
    assert list(index.shard_rows(1)) == [3, 4]
    fourth = pickle.loads(pickle.dumps(index)).read(3)  # noqa: S301 - our own object, as DataLoader workers get it
    assert (fourth.shard, fourth.key, fourth.caption, fourth.image) == ("1", "10000", "picture number 4", picture(4))
    uids = parse_uids(["3", "9", "1"])
    assert index.find(uids).tolist() == [2, -1, 0]
    subset = Subset(np.concatenate([uids, uids[:1]]))
    assert index.rows_of(subset).tolist() == [0, 2, 2]
    assert index.report.samples == 5
    assert index.report.num_lost == 0


def test_shards_behind_fsspec_read_alike(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 4})
    memory = fsspec.filesystem("memory")
    memory.put(str(root / "shards" / "0.tar"), "/bucket/0.tar")
    remote = PoolIndex.build(Pool("memory://bucket"), tmp_path / "remote")
    local = build(root, tmp_path / "local")
    assert [remote.read(row) for row in range(4)] == [local.read(row) for row in range(4)]
    assert remote.fingerprint == local.fingerprint


def damaged_members() -> Members:
    """Ten whole samples and one of every damage that a tar can carry."""
    members: Members = []
    for number in range(1, 11):
        members += sample(f"good{number}", number)
    members += sample("nocaption", 11, txt=None)
    members += sample("blank", 12, txt=b" \n")
    members += sample("noimage", 13, jpg=None)
    members += sample("empty", 14, jpg=b"")
    members += sample("good3", 15)  # a key that came before
    members += sample("badjson", 16, json=b"{")
    members += sample("baduid", 17, json=b'{"uid": "xyz"}')
    members += sample("longuid", 18, json=b'{"uid": "' + b"a" * 33 + b'"}')
    members += sample("sameuid", 5)  # another key, the uid of good5
    members += sample("nouid", 19, json=b"{}")
    members += sample("nojson", 20, json=None)
    members += [*sample("pickled", 21), ("pickled.pkl", pickle.dumps({"a": 1})), ("pickled.pyd", b"x")]
    members += [("pickled.pth", b"\x80\x04")]
    return members


def test_damage_is_skipped_and_counted_by_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "pool" / "0.tar", damaged_members())
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert dict(index.report.lost) == {
        "missing_caption": 2,
        "missing_image": 1,
        "broken_image": 1,
        "duplicate_key": 1,
        "broken_json": 1,
        "bad_uid": 2,
        "duplicate_uid": 1,
    }
    assert dict(index.report.ignored) == {"pkl member": 1, "pyd member": 1, "pth member": 1}
    assert len(index) == 13  # ten good ones, two with derived uids, the one with pickles beside it
    assert index.report.samples == 22
    assert derive_uid("0", "nouid") in format_uids(index.uids)
    assert "duplicate_key: 0 good3" in caplog.text


@pytest.mark.parametrize("join", ["{root}/a::{root}/b::{root}/c", "{root}/{{a,b,c}}"])
def test_what_two_joined_pools_have_is_one_sample(tmp_path: Path, join: str) -> None:
    write_pool(tmp_path / "a", {"0": 5, "1": 3})  # uids 1 to 8
    write_pool(tmp_path / "b", {"0": 4}, start=7)  # 7 to 10
    write_pool(tmp_path / "c", {"9": 2}, start=10)  # 10 and 11
    index = build(join.format(root=tmp_path), tmp_path / "cache")
    assert [int(uid, 16) for uid in format_uids(index.uids)] == list(range(1, 12))
    assert dict(index.report.ignored) == {"uid_of_another_pool": 3}
    assert (index.report.samples, index.report.num_lost) == (11, 0)
    places = [(there["shard"], there["detail"]) for there in index.report.examples["uid_of_another_pool"]]
    assert places == [("b_shards_0", "a_shards_1 has it")] * 2 + [("c_shards_9", "b_shards_0 has it")]


def test_what_one_pool_has_twice_is_lost_also_among_others(tmp_path: Path) -> None:
    write_pool(tmp_path / "a", {"0": 5})
    write_pool(tmp_path / "b", {"1": 2}, start=6)
    write_pool(tmp_path / "b", {"2": 2}, start=7)  # 7 again
    index = build(f"{tmp_path}/a::{tmp_path}/b", tmp_path / "cache", max_loss=0.5)
    assert dict(index.report.lost) == {"duplicate_uid": 1}
    assert (len(index), index.report.samples) == (8, 9)


def test_a_truncated_tar_loses_its_tail_and_is_named(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 8, "1": 2})
    tar = root / "shards" / "0.tar"
    data = tar.read_bytes()
    with tarfile.open(tar) as whole:
        member = whole.getmember("00005.json") if "00005.json" in whole.getnames() else whole.getmembers()[17]
    tar.write_bytes(data[: member.offset_data + 3])  # inside the sixth sample's json
    index = build(root, tmp_path / "cache")
    assert dict(index.report.lost) == {"truncated_tar": 1}
    assert len(index) == 5 + 2
    assert index.report.examples["truncated_tar"][0]["shard"] == "0"


def test_a_tar_cut_between_members_is_noticed_too(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 8, "1": 2})
    tar = root / "shards" / "0.tar"
    with tarfile.open(tar) as whole:
        cut = whole.getmembers()[12].offset
    tar.write_bytes(tar.read_bytes()[:cut])
    (root / "shards" / "0_stats.json").write_text('{"successes": 8}')
    index = build(root, tmp_path / "cache")
    assert index.report.lost["truncated_tar"] == 8 - 4  # the fourth has all that a sample is read for
    assert index.report.samples == 10


@pytest.mark.parametrize(("member", "cause"), [(12, "missing_image"), (13, "missing_caption"), (14, "truncated_tar")])
def test_a_garbled_header_costs_its_sample_alone(tmp_path: Path, member: int, cause: str) -> None:
    root = write_pool(tmp_path / "pool", {"0": 8, "1": 2})
    tar = root / "shards" / "0.tar"
    with tarfile.open(tar) as whole:
        header = whole.getmembers()[member].offset
    data = bytearray(tar.read_bytes())
    data[header : header + 512] = b"x" * 512
    tar.write_bytes(data)
    index = build(root, tmp_path / "cache")
    assert dict(index.report.lost) == {cause: 1}
    assert index.report.examples[cause][0]["key"] == "00004"
    assert sorted(index.uids["f1"].tolist()) == [1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("block", [0, 1])
def test_a_name_whose_end_is_lost_makes_no_sample(tmp_path: Path, format: int, block: int) -> None:
    """Two names that begin alike would be one. Lost is the header that holds a long name, or the name itself."""
    keys = ["x" * 105 + str(number) for number in range(4)]
    members = [member for number, key in enumerate(keys, start=1) for member in sample(key, number)]
    tar = write_tar(tmp_path / "pool" / "0.tar", members, format)
    data = bytearray(tar.read_bytes())
    with tarfile.open(tar) as whole:
        start = whole.getmembers()[6].offset  # the third sample's picture
    data[start + 512 * block : start + 512 * (block + 1)] = b"!" * 512
    tar.write_bytes(data)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert sorted(index.uids["f1"].tolist()) == [1, 2, 4]
    assert index.report.num_lost == 1


@pytest.mark.parametrize("blocks", [1, 3])
def test_zeros_in_place_of_headers_are_no_end(tmp_path: Path, blocks: int) -> None:
    root = write_pool(tmp_path / "pool", {"0": 8})
    tar = root / "shards" / "0.tar"
    with tarfile.open(tar) as whole:
        start = whole.getmembers()[10].offset  # the fourth sample's caption, which is one block
    data = bytearray(tar.read_bytes())
    data[start : start + 512 * blocks] = bytes(512 * blocks)
    tar.write_bytes(data)
    index = build(root, tmp_path / "cache")
    assert sorted(index.uids["f1"].tolist()) == [1, 2, 3, 5, 6, 7, 8]
    assert index.report.num_lost == 1


@pytest.mark.parametrize("shift", [-100, 1, 700])
def test_behind_bytes_that_are_gone_or_too_many_the_next_header_is_found(tmp_path: Path, shift: int) -> None:
    """At whatever byte it lies."""
    root = write_pool(tmp_path / "pool", {"0": 8})
    tar = root / "shards" / "0.tar"
    with tarfile.open(tar) as whole:
        at = whole.getmembers()[9].offset_data + 200  # in the fourth sample's picture
    data = tar.read_bytes()
    tar.write_bytes(data[:at] + b"z" * max(shift, 0) + data[at + max(-shift, 0) :])
    index = build(root, tmp_path / "cache")
    assert set(index.uids["f1"].tolist()) >= {1, 2, 3, 5, 6, 7, 8}
    assert index.report.num_lost == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 10240], ids=["no bytes", "no members"])
def test_an_empty_shard_is_counted(tmp_path: Path, content: bytes) -> None:
    root = write_pool(tmp_path / "pool", {"0": 3})
    (root / "shards" / "1.tar").write_bytes(content)
    index = build(root, tmp_path / "cache")
    assert len(index) == 3
    assert dict(index.report.lost) == {"empty_shard": 1}


def test_too_much_damage_stops_the_run(tmp_path: Path) -> None:
    write_tar(tmp_path / "pool" / "0.tar", damaged_members())
    with pytest.raises(ClipsiftError, match=r"9 of 22 samples lost .*above max_loss 1.00%.*first: 0 blank"):
        build(tmp_path / "pool", tmp_path / "cache", max_loss=0.01)


def test_a_build_goes_on_where_it_was_and_sees_changes(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 3, "1": 3})
    first = build(root, tmp_path / "cache")
    (volume,) = (tmp_path / "cache" / "index").glob("*.volume")
    before = (volume / "rows.bin").stat().st_mtime_ns
    write_tar(root / "shards" / "1.tar", sample("new", 77))
    second = build(root, tmp_path / "cache")
    assert (volume / "rows.bin").stat().st_mtime_ns == before
    assert len(list((tmp_path / "cache" / "index").glob("*.volume"))) == 2
    assert (len(first), len(second)) == (6, 4)
    assert first.fingerprint != second.fingerprint
    assert [second.read(row) for row in range(3)] == [first.read(row) for row in range(3)]


def test_a_shard_that_changed_or_went_after_indexing_is_named(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 3})
    tar = root / "shards" / "0.tar"
    index = build(root, tmp_path / "cache")
    tar.write_bytes(tar.read_bytes() + b"\0" * 512)
    with pytest.raises(ClipsiftError, match=r"0\.tar: has another size"):
        index.read(0)
    tar.unlink()
    with pytest.raises(ClipsiftError, match=r"0\.tar: cannot be read any more"):
        index.read(0)


def test_long_names_and_other_image_types(tmp_path: Path) -> None:
    members = sample("k" * 120, 1, jpg=None, webp=picture(1, format="WEBP"))
    write_tar(tmp_path / "0.tar", members, tarfile.PAX_FORMAT)
    index = build(tmp_path, tmp_path / "cache")
    assert index.read(0).image == picture(1, format="WEBP")
    assert index.read(0).key.startswith("kkkk")


def test_real_pools(shared_data: Path, tmp_path: Path) -> None:
    web = build(shared_data / "cc12m_sample", tmp_path / "a")
    assert len(web) == 32
    assert web.read(0).uid == derive_uid(web.read(0).shard, web.read(0).key)
    flickr = build(shared_data / "flickr8k", tmp_path / "b")
    assert [len(flickr.shard_rows(shard)) for shard in range(3)] == [900, 600, 300]
    assert flickr.read(0).uid == "c8f8262750bf4add1fab3e6217a11388"


def members_of(first: int, count: int, **changes: Any) -> Members:
    return [member for number in range(first, first + count) for member in sample(f"{number:04d}", number, **changes)]


def uids_in(index: PoolIndex) -> list[int]:
    return sorted(index.uids["f1"].tolist())


@pytest.mark.parametrize("padding", [0, 512, 10_240, 100_000 // 512 * 512])
@pytest.mark.parametrize("parts", [2, 3])
def test_joined_tars_are_read_to_the_end_of_the_file(tmp_path: Path, padding: int, parts: int) -> None:
    data = b""
    for part in range(parts):
        tar = write_tar(tmp_path / "part.tar", members_of(10 * part + 1, 4))
        data += tar.read_bytes() + bytes(padding if part + 1 < parts else 0)
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "0.tar").write_bytes(data)
    with tarfile.open(tmp_path / "pool" / "0.tar", ignore_zeros=True) as independent:
        found = {member.name.split(".")[0] for member in independent}
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert len(index) == len(found) == 4 * parts
    assert index.report.num_lost == 0
    assert [index.read(row).key for row in range(len(index))] == sorted(found)


@pytest.mark.parametrize("junk", [b"x" * 700, b"\x01" * 512, bytes(511) + b"\xff"])
def test_what_lies_behind_the_end_mark_is_named_and_loses_nothing(tmp_path: Path, junk: bytes) -> None:
    tar = write_tar(tmp_path / "pool" / "0.tar", members_of(1, 3))
    tar.write_bytes(tar.read_bytes() + junk)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert len(index) == 3
    assert index.report.num_lost == 0
    assert index.report.ignored["trailing data"] == 1


def by_kind(members: Members) -> Members:
    order = {"jpg": 0, "txt": 1, "json": 2}
    return sorted(members, key=lambda member: order[member[0].rsplit(".")[-1]])


def backwards(members: Members) -> Members:
    return by_kind(members)[::-1]


def taking_turns(members: Members) -> Members:
    half = len(members) // 2
    return [member for pair in zip(members[:half], members[half:]) for member in pair]


@pytest.mark.parametrize("order", [by_kind, backwards, taking_turns])
@pytest.mark.parametrize("with_json", [True, False])
def test_members_in_any_order_are_joined_by_key(
    tmp_path: Path, order: Callable[[Members], Members], with_json: bool
) -> None:
    changes = {} if with_json else {"json": None}
    ordered = write_tar(tmp_path / "ordered" / "0.tar", members_of(1, 8, **changes))
    write_tar(tmp_path / "mixed" / ordered.name, order(members_of(1, 8, **changes)))
    expected, index = (build(tmp_path / name, tmp_path / f"cache-{name}") for name in ("ordered", "mixed"))
    assert index.report.num_lost == 0
    assert sorted(index.uids.tolist()) == sorted(expected.uids.tolist())
    rows = index.find(expected.uids)
    for row, other in zip(rows.tolist(), range(len(expected))):
        assert dataclasses.astuple(index.read(row)) == dataclasses.astuple(expected.read(other))


def test_a_cut_never_gives_a_sample_another_uid(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "pool" / "0.tar", by_kind(members_of(1, 6)))
    with tarfile.open(tar) as whole:
        cut = whole.getmembers()[6 + 6 + 3].offset  # three json are left
    tar.write_bytes(tar.read_bytes()[:cut])
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert uids_in(index) == [1, 2, 3]
    assert len(index) + index.report.num_lost >= 6


@pytest.mark.parametrize("text", ["\ufeff", "\u200b", "\u00a0 \u2003", "\u200b\n\u2060\t", "\ufeff\r\n", "\u00ad"])
def test_a_caption_that_shows_nothing_is_missing(tmp_path: Path, text: str) -> None:
    members = [*members_of(1, 2), *sample("0009", 9, txt=text.encode())]
    write_tar(tmp_path / "pool" / "0.tar", members)
    index = build(tmp_path / "pool", tmp_path / "cache")
    assert len(index) == 2
    assert dict(index.report.lost) == {"missing_caption": 1}


@pytest.mark.parametrize("text", ["\ufeffa", "\u200b7", "\u4e2d", "\u0e44\u0e17\u0e22", "."])
def test_a_caption_that_shows_something_is_kept(tmp_path: Path, text: str) -> None:
    write_tar(tmp_path / "pool" / "0.tar", sample("0009", 9, txt=text.encode()))
    assert len(build(tmp_path / "pool", tmp_path / "cache")) == 1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["a bit", "the end", "nothing left"])
def test_what_is_not_as_it_was_written_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    """Of a pool with a repeated uid, so that no file is without content."""
    pool = write_pool(tmp_path / "pool", {"0": 3, "1": 2}, start=1), write_pool(tmp_path / "b", {"2": 3}, start=4)
    location = Pool("::".join(map(str, pool)))
    rows = [*entries(PoolIndex.build(location, tmp_path / "cache"))]
    path = next(path for path in (tmp_path / "cache" / "index").glob(name))
    content = path.read_bytes()
    at = len(content) // 2
    bit = content[:at] + bytes([content[at] ^ 8]) + content[at + 1 :]
    path.write_bytes({"a bit": bit, "the end": content[:-30], "nothing left": b""}[damage])
    assert [*entries(PoolIndex.build(location, tmp_path / "cache"))] == rows
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["parts/0.npy", "parts/0.json"])
@pytest.mark.parametrize("damage", ["a bit", "the end", "nothing left"])
def test_so_is_a_part_of_an_interrupted_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: str
) -> None:
    root = write_pool(tmp_path / "pool", {"0": 3, "1": 2})
    rows = [*entries(build(root, tmp_path / "whole"))]
    with monkeypatch.context() as patch:
        patch.setattr(IndexBuilder, "_gather", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(root, tmp_path / "cache")
    path = tmp_path / "cache" / "index" / name
    content = path.read_bytes()
    at = content.rindex(b"{", 0, len(content) // 2)
    changed = {"a bit": content[:at] + b"z" + content[at + 1 :], "the end": content[:-30], "nothing left": b""}
    path.write_bytes(changed[damage])
    assert [*entries(build(root, tmp_path / "cache"))] == rows
    assert not (tmp_path / "cache" / "index" / "parts").exists()


def entries(index: PoolIndex) -> list[Any]:
    return [*index.entries(range(len(index))).tolist()]
