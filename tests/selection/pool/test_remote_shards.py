"""Shards behind servers that fail in every way: the same samples as from disk, or a clear end that names the shard."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipsift_common.errors import ClipsiftError
from helpers.pools import write_pool
from helpers.range_server import RangeServer, serve
from selection.pool import remote
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.pool.remote import stamp
from selection.pool.shard_cache import ShardCache


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small requests and short pauses, so that what takes minutes takes moments."""
    monkeypatch.setattr(remote, "CHUNK", 4096)
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(remote, "STALL", 0.4)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool", {"00": 5, "01": 2, "02": 4}) / "shards"


@pytest.fixture
def server(pool: Path) -> Iterator[RangeServer]:
    with serve(pool) as running:
        yield running


def samples(location: str, cache: Path, by_ranges: bool = False) -> list[tuple[str, str, bytes, str]]:
    index = PoolIndex.build(Pool(location), cache)
    index.by_ranges = by_ranges
    found = [index.read(row) for row in range(len(index))]
    return [(sample.uid, sample.key, sample.image, sample.caption) for sample in found]


FAULTS = {
    "none": lambda path, number: None,
    "every other request is cut": lambda path, number: "cut" if number % 2 else None,
    "busy three times in four": lambda path, number: "busy" if number % 4 else None,
    "one stalls": lambda path, number: "stall" if path == "/01.tar" and number == 1 else None,
    "knows no ranges": lambda path, number: "whole",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("by_ranges", [False, True])
def test_the_same_samples_as_from_disk(server, pool, tmp_path, fault, by_ranges):
    server.misbehave = FAULTS[fault]
    there = samples(f"{server.url}/{{00..02}}.tar", tmp_path / "remote", by_ranges)
    assert there == samples(str(pool), tmp_path / "local")


@pytest.mark.parametrize("fault", ["cut", "busy", "stall"])
def test_a_server_that_never_recovers_ends_the_run(server, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 3)
    monkeypatch.setattr(remote, "STALL", 0.1)
    server.misbehave = lambda path, number: fault if path == "/01.tar" and number >= 1 else None
    with pytest.raises(ClipsiftError, match=r"/01\.tar: cannot be read after 3 tries"):
        samples(f"{server.url}/{{00..02}}.tar", tmp_path / "cache")
    assert not any(path.suffix == ".tar" and path.stat().st_size < 10_000 for path in (tmp_path / "cache").rglob("*"))


def test_what_is_not_there_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(ClipsiftError, match=r"/03\.tar: cannot be read \(FileNotFoundError"):
        samples(f"{server.url}/{{00..03}}.tar", tmp_path / "cache")
    assert server.asked["/03.tar"] <= 1


def test_a_transfer_goes_on_where_it_broke_off(server, pool, tmp_path, monkeypatch):
    url, size = f"{server.url}/00.tar", (pool / "00.tar").stat().st_size
    monkeypatch.setattr(remote, "TRIES", 1)
    server.misbehave = lambda path, number: "busy" if number == 3 else None
    cache = ShardCache(tmp_path / "cache", 10**9)
    with pytest.raises(ClipsiftError):
        cache.fetch(url, stamp(url))
    with cache.open(url, stamp(url)) as handle:
        assert handle.read() == (pool / "00.tar").read_bytes()
    assert server.sent["/00.tar"] == size


def test_a_shard_that_changed_on_the_server_is_named(server, pool, tmp_path):
    index = PoolIndex.build(Pool(f"{server.url}/{{00..02}}.tar"), tmp_path / "cache")
    for cached in (tmp_path / "cache" / "shards").iterdir():
        cached.unlink()
    os.utime(pool / "01.tar", (1, 1))
    assert index.read(0).uid
    with pytest.raises(ClipsiftError, match=r"/01\.tar: has changed since it was indexed"):
        index.read(5)
    index.by_ranges = True
    with pytest.raises(ClipsiftError, match=r"/01\.tar: has changed since it was indexed"):
        index.read(5)


def test_the_cache_keeps_within_its_bound(server, pool, tmp_path):
    sizes = [(pool / f"0{number}.tar").stat().st_size for number in range(3)]
    folder, limit = tmp_path / "shards", sizes[0] + max(sizes[1:])
    cache = ShardCache(folder, limit)
    urls = [f"{server.url}/0{number}.tar" for number in range(3)]
    stamps = [stamp(url) for url in urls]
    for number in (0, 1, 0, 2, 0, 1):  # 0 is used most of the time and stays
        cache.open(urls[number], stamps[number]).close()
        os.utime(cache._path(urls[number], stamps[number]), (number and 1, number and 1) if number else None)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= limit
    assert server.sent["/00.tar"] == sizes[0]
    assert server.sent["/01.tar"] == 2 * sizes[1]
    with pytest.raises(ClipsiftError, match=r"data\.shard_cache_gb: a shard of .* GB does not fit"):
        ShardCache(tmp_path / "tiny", 1000).open(urls[0], stamps[0])


def test_many_readers_fetch_a_shard_once(server, pool, tmp_path):
    cache, url = ShardCache(tmp_path / "shards", 10**9), f"{server.url}/00.tar"
    known, contents = stamp(url), list[bytes]()

    def read() -> None:
        with cache.open(url, known) as handle:
            contents.append(handle.read())

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(contents) == {(pool / "00.tar").read_bytes()}
    assert len(contents) == 8
    assert server.sent["/00.tar"] == len(contents[0])
    assert [path.suffix for path in (tmp_path / "shards").iterdir()] == [".tar"]


def test_a_full_disk_is_no_network_trouble(server, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(ClipsiftError, match=r"shards: cannot be written \(File too large\)"):
            samples(f"{server.url}/{{00..02}}.tar", tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_commands_are_read_like_files(pool, tmp_path):
    local = samples(str(pool), tmp_path / "local")
    assert samples(f"pipe:cat {pool}/{{00..02}}.tar", tmp_path / "a") == local
    assert [shard.name for shard in Pool(f"pipe:cat {pool}/{{00..02}}.tar").shards] == ["00", "01", "02"]
    # The first attempt dies in the middle.
    (tmp_path / "flaky.sh").write_text(
        f"test -e {tmp_path}/seen && exec cat {pool}/00.tar; touch {tmp_path}/seen; head -c 700 {pool}/00.tar; exit 3"
    )
    assert samples(f"pipe:sh {tmp_path}/flaky.sh", tmp_path / "b") == local[:5]


@pytest.mark.parametrize(
    ("command", "reason"), [("false", "exit status 1"), ("sleep 9", "silent"), ("true", "no output")]
)
def test_commands_that_fail_are_named(command, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 2)
    monkeypatch.setattr(remote, "STALL", 0.1)
    with pytest.raises(ClipsiftError, match=rf"pipe:{command}: cannot be read after 2 tries .*{reason}"):
        samples(f"pipe:{command}", tmp_path / "cache")
