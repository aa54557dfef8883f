"""Pools that a file lists, and counts of samples that other programs' indexes promise."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from clipsift_common.errors import ClipsiftError
from helpers.pools import sample, write_pool
from helpers.range_server import serve
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three shards of 4, 3 and 2 samples in ``shards``, and one more below."""
    return write_pool(tmp_path / "pool", {"00": 4, "01": 3, "02": 2, "more/03": 1})


def names(pool: Path | str) -> list[str]:
    return [Path(shard.url).name for shard in Pool(str(pool)).shards]


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


LISTS = {
    "lines.txt": "# the good ones\nshards/02.tar\n\n  shards/00.tar \r\n",
    "bom.txt": "\ufeffshards/02.tar\nshards/00.tar",
    "of_shards.list": "shards/02.tar\nshards/00.tar\n",
    "strings.json": ["shards/02.tar", "shards/00.tar"],
    "objects.json": [{"url": "shards/02.tar", "nsamples": 2}, {"url": "shards/00.tar"}],
    "lines.jsonl": '"shards/02.tar"\n{"url": "shards/00.tar"}\n',
    "wids.json": {"wids_version": 1, "shardlist": [{"url": "shards/02.tar", "nsamples": 2}, {"url": "shards/00.tar"}]},
    "based.json": {"base": "shards", "shardlist": [{"url": "02.tar"}, {"url": "00.tar"}]},
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_names_the_shards_in_its_order(root, name):
    assert names(write(root / name, LISTS[name])) == ["02.tar", "00.tar"]


def test_a_list_may_name_absolute_places_patterns_and_folders(root, tmp_path):
    listed = write(tmp_path / "all.txt", f"{root}/shards/0{{1,0}}.tar\n{root}/shards/more\npool/shards/*2.tar")
    assert names(listed) == ["01.tar", "00.tar", "03.tar", "02.tar"]
    some = write(tmp_path / "some.txt", "pool/shards/01.tar")
    assert names(f"{root}/shards/02.tar::{some}::{root}/shards/more") == ["02.tar", "01.tar", "03.tar"]


def test_a_list_on_a_server_names_what_lies_beside_it(root, tmp_path):
    write(root / "shards" / "index.json", {"shardlist": [{"url": "01.tar", "nsamples": 3}, {"url": "02.tar"}]})
    with serve(root / "shards") as server:
        index = PoolIndex.build(Pool(f"{server.url}/index.json"), tmp_path / "cache")
    assert len(index) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "# nothing\n", "lists no shard"),
        ("a.json", "[]", "lists no shard"),
        ("a.json", "[1]", "entry 0 is 1, not an address"),
        ("a.json", '[{"path": "x.tar"}]', "entry 0 is .*not an address or url and nsamples"),
        ("a.json", '[{"url": "x.tar", "nsamples": "many"}]', "not an address or url and nsamples"),
        ("a.json", '{"train": ["x.tar"], "test": []}', "it has no shardlist, but train, test"),
        ("a.json", '"x.tar"', "it holds a str"),
        ("a.json", "[", "is no list of shards"),
        ("a.txt", "shards/09.tar", r"shards/09\.tar does not exist"),
        ("a.txt", "pipe:touch planted", r"lists a command \(pipe:touch planted\); give commands as --pool"),
        ("a.json", '["pipe:touch planted"]', r"lists a command"),
        ("a.txt", "shards/00.tar\nshards/00.tar", "is named twice"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(root, monkeypatch, name, content, message):
    monkeypatch.chdir(root)
    with pytest.raises(ClipsiftError, match=message) as caught:
        Pool(str(write(root / name, content)))
    assert "\n" not in str(caught.value)
    assert not (root / "planted").exists()


def test_a_binary_file_is_no_list(root):
    (root / "a.txt").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(ClipsiftError, match=r"a\.txt is no list of shards"):
        Pool(str(root / "a.txt"))


def cut(tar: Path) -> int:
    """Take the last two thirds of a tar away; the samples that ``tarfile`` still finds."""
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 3])
    found = 0
    with tarfile.open(tar) as archive:
        try:
            while (member := archive.next()) is not None:
                whole = len(archive.extractfile(member).read()) == member.size
                found += whole and member.name.endswith(".json")
        except (tarfile.TarError, OSError):
            pass
    return found


ENERGON = {"shard_counts": {"big.tar": 200, "sub/small.tar": 2}}
INDEXES = {
    "sizes.json": {"big.tar": 200, "sub/small.tar": 2},
    ".nv-meta/.info.json": ENERGON,
    ".nv-meta/.info.yaml": "shard_counts:\n  big.tar: 200\n  sub/small.tar: 2\n",
    "shardindex.json": {"wids_version": 1, "shardlist": [{"url": "big.tar", "nsamples": 200}]},
    "wids.json": {"shardlist": [{"url": "big.tar", "nsamples": 200}, {"url": 3}, "x"]},
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_loss_is_measured_against_what_an_index_promises(tmp_path, name):
    pool = tmp_path / "pool"
    write_tar(pool / "big.tar", [member for row in range(200) for member in sample(f"a{row:04d}", row + 1)])
    write_tar(pool / "sub" / "small.tar", [member for row in range(2) for member in sample(f"b{row}", row + 301)])
    left = cut(pool / "big.tar")
    (pool / name).parent.mkdir(exist_ok=True)
    write(pool / name, INDEXES[name])
    listed = Pool(str(pool))
    assert listed.left_out == []
    index = PoolIndex.build(listed, tmp_path / "cache")
    assert len(index) == left + 2
    assert dict(index.report.lost) == {"truncated_tar": 200 - left}
    with pytest.raises(ClipsiftError, match=rf"{200 - left} of 202 samples lost"):
        PoolIndex.build(listed, tmp_path / "cache", max_loss=0.5)


def test_a_loss_is_measured_against_what_a_list_promises(root, tmp_path):
    entries = [{"url": "shards/00.tar", "nsamples": 4}, {"url": "shards/01.tar", "nsamples": 30}]
    index = PoolIndex.build(Pool(str(write(root / "wids.json", {"shardlist": entries}))), tmp_path / "cache")
    assert (len(index), dict(index.report.lost)) == (7, {"truncated_tar": 27})
    assert index.report.examples["truncated_tar"][0]["detail"] == "30 samples are promised"


@pytest.mark.parametrize(
    "content", ["", "[]", "3", '{"00.tar": "many", "01.tar": -1, "02.tar": true}', "\x00", "[" * 5000]
)
@pytest.mark.parametrize("name", ["sizes.json", "wids.json", ".nv-meta/.info.json", ".nv-meta/.info.yaml"])
def test_indexes_that_say_nothing_do_no_harm(root, tmp_path, name, content):
    place = root / "shards" / name
    place.parent.mkdir(exist_ok=True)
    write(place, content)
    index = PoolIndex.build(Pool(str(root / "shards")), tmp_path / "cache")
    assert (len(index), index.report.num_lost) == (10, 0)
