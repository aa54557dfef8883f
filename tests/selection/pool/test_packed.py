"""Compressed shards give what Python's own modules find in them, or one line that says why not."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fsspec.compression import compr

from clipsift_common.errors import ClipsiftError
from helpers.packing import HAS_ZSTD, OPEN, PACK, pack
from helpers.pools import write_pool
from helpers.range_server import serve
from selection.pool import shard_cache
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.pool.packed import shards

ZSTD = pytest.mark.skipif(not HAS_ZSTD, reason="backports.zstd is not installed")


def contents(index: PoolIndex) -> list[tuple[str, str, str, bytes, str]]:
    found = [index.read(row) for row in range(len(index))]
    return [(sample.uid, sample.shard, sample.key, sample.image, sample.caption) for sample in found]


@pytest.fixture
def plain(tmp_path: Path) -> list[tuple[str, str, str, bytes, str]]:
    write_pool(tmp_path / "plain", {"00": 4, "01": 3})
    return contents(PoolIndex.build(Pool(str(tmp_path / "plain")), tmp_path / "cache_of_plain"))


@pytest.mark.parametrize("suffix", PACK)
def test_packed_shards_hold_what_their_tars_hold(tmp_path, plain, suffix):
    root = write_pool(tmp_path / "pool", {"00": 4, "01": 3})
    pack(root / "shards", suffix)
    for location in (root, root / "shards", f"{root}/shards/*{suffix}", f"{root}/shards/{{00..01}}{suffix}"):
        assert contents(PoolIndex.build(Pool(str(location)), tmp_path / "cache", workers=2)) == plain


def test_packed_shards_lie_beside_plain_ones_and_below(tmp_path, plain):
    root = write_pool(tmp_path / "pool", {"00": 4, "01": 3})
    gz = root / "shards" / "01.tar.gz"
    gz.write_bytes(gzip.compress((root / "shards" / "01.tar").read_bytes()))
    assert [Path(shard.url).name for shard in Pool(str(root)).shards] == ["00.tar", "01.tar"]  # `gunzip --keep`
    (root / "shards" / "01.tar").unlink()
    assert contents(PoolIndex.build(Pool(str(root)), tmp_path / "cache")) == plain


@pytest.mark.parametrize("suffix", [".tgz", pytest.param(".tar.zst", marks=ZSTD)])
def test_packed_shards_of_a_server_are_fetched_and_unpacked(tmp_path, plain, suffix):
    root = write_pool(tmp_path / "pool", {"00": 4, "01": 3})
    pack(root / "shards", suffix)
    with serve(root / "shards") as server:
        index = PoolIndex.build(Pool(f"{server.url}/{{00..01}}{suffix}"), tmp_path / "cache")
        assert contents(index) == plain
        index.by_ranges = True
        assert contents(index) == plain
        kept = {path.name for path in (tmp_path / "cache" / "shards").iterdir()}
    assert len(kept) == 2
    assert all(name.endswith(".tar") for name in kept)


def readable(data: bytes) -> int:
    """Samples that tarfile finds in the beginning of a tar, of which all members are whole."""
    found = 0
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        while True:
            try:
                member = tar.next()
                if member is None or len(tar.extractfile(member).read()) < member.size:
                    break
            except (tarfile.TarError, OSError):
                break
            found += member.name.endswith(".json")  # the last member of a sample
    return found


@pytest.mark.parametrize("suffix", OPEN)
@pytest.mark.parametrize("share", [0.2, 0.51, 0.93])
def test_a_cut_stream_loses_what_lies_behind_the_cut(tmp_path, suffix, share, caplog):
    root = write_pool(tmp_path / "pool", {"00": 300})
    tar = (root / "shards" / "00.tar").read_bytes()
    pack(root / "shards", suffix)
    shard = root / "shards" / f"00{suffix}"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(share * len(whole))])
    (root / "shards" / "00_stats.json").write_text('{"successes": 300}')
    before = bytearray()
    with pytest.raises(EOFError), OPEN[suffix](shard) as stream:  # noqa: PT012 - it raises somewhere
        while piece := stream.read1(1 << 12):
            before += piece
    assert tar.startswith(before)
    index = PoolIndex.build(Pool(str(root)), tmp_path / "cache")
    assert len(index) == readable(bytes(before))
    assert dict(index.report.lost) == {"truncated_tar": 300 - len(index)}
    assert f"00{suffix}: is cut or damaged" in caplog.text


@pytest.mark.parametrize(("suffix", "at"), [(".tgz", -6), pytest.param(".tar.zst", -2, marks=ZSTD)])
def test_a_checksum_that_does_not_fit_is_a_loss(tmp_path, suffix, at):
    root = write_pool(tmp_path / "pool", {"00": 200})
    pack(root / "shards", suffix)
    data = bytearray((root / "shards" / f"00{suffix}").read_bytes())
    data[at] ^= 1
    (root / "shards" / f"00{suffix}").write_bytes(data)
    (root / "shards" / "00_stats.json").write_text('{"successes": 201}')
    index = PoolIndex.build(Pool(str(root)), tmp_path / "cache")
    assert dict(index.report.lost) == {"truncated_tar": 201 - len(index)}
    assert len(index) > 100


@pytest.mark.parametrize("suffix", [".tar.gz", pytest.param(".tar.zst", marks=ZSTD)])
def test_garbage_behind_the_stream_loses_nothing(tmp_path, plain, suffix, caplog):
    root = write_pool(tmp_path / "pool", {"00": 4, "01": 3})
    pack(root / "shards", suffix)
    with open(root / "shards" / f"00{suffix}", "ab") as shard:
        shard.write(b"<!-- served in 12 ms -->")
    index = PoolIndex.build(Pool(str(root)), tmp_path / "cache")
    assert contents(index) == plain
    assert index.report.num_lost == 0
    assert f"00{suffix}: is cut or damaged" in caplog.text


@pytest.mark.parametrize("suffix", PACK)
def test_a_stream_that_is_cut_at_once_loses_all_that_was_promised(tmp_path, suffix):
    root = write_pool(tmp_path / "pool", {"00": 5, "01": 1})
    pack(root / "shards", suffix)
    shard = root / "shards" / f"00{suffix}"
    shard.write_bytes(shard.read_bytes()[:12])
    (root / "shards" / "00_stats.json").write_text('{"successes": 5}')
    index = PoolIndex.build(Pool(str(root)), tmp_path / "cache")
    assert (len(index), dict(index.report.lost)) == (1, {"empty_shard": 5})


def test_a_full_disk_is_one_line_and_keeps_nothing_half(tmp_path, small_disk):
    root = write_pool(tmp_path / "pool", {"00": 100})
    pack(root / "shards", ".tar.gz")
    with pytest.raises(ClipsiftError, match=r"cannot be written \(No space left on device\)"):
        PoolIndex.build(Pool(str(root)), small_disk)
    assert sum(path.stat().st_size for path in (small_disk / "shards").iterdir()) == 0


def test_parts_of_a_stream_that_were_joined_are_all_read(tmp_path, plain):
    root = write_pool(tmp_path / "pool", {"00": 4, "01": 3})
    tar = (root / "shards" / "00.tar").read_bytes()
    (root / "shards" / "00.tar").unlink()
    parts = [
        gzip.compress(tar[start : start + 5000]) for start in range(0, len(tar), 5000)
    ]  # as `pigz -i` and bgzip do
    (root / "shards" / "00.tar.gz").write_bytes(b"".join(parts))
    assert contents(PoolIndex.build(Pool(str(root)), tmp_path / "cache")) == plain


@pytest.mark.parametrize("suffix", PACK)
def test_what_is_not_packed_as_it_says_is_named(tmp_path, suffix):
    (tmp_path / f"00{suffix}").write_bytes(b"<html>no such file</html>" * 9)
    with pytest.raises(ClipsiftError, match=rf"00{suffix}: cannot be unpacked .*get it again"):
        PoolIndex.build(Pool(str(tmp_path)), tmp_path / "cache")


@pytest.mark.parametrize("suffix", PACK)
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(shards, "FLOOR", 1 << 20)
    monkeypatch.setattr(shards, "MOST_TIMES", 10)
    (tmp_path / f"00{suffix}").write_bytes(PACK[suffix](bytes(20 << 20)))
    with pytest.raises(ClipsiftError, match=rf"00{suffix}: unpacks to more than 0.00 GB, 10 times its size"):
        PoolIndex.build(Pool(str(tmp_path)), tmp_path / "cache")
    assert sum(path.stat().st_size for path in (tmp_path / "cache" / "shards").iterdir()) == 0


def test_a_shard_that_the_cache_cannot_hold_is_refused_with_the_command(tmp_path, monkeypatch):
    root = write_pool(tmp_path / "pool", {"00": 40})
    pack(root / "shards", ".tar.gz")
    url = str(root / "shards" / "00.tar.gz")
    with pytest.raises(
        ClipsiftError, match=rf"^data\.shard_cache_gb: {url}: unpacks .*raise it, or unpack it: gunzip {url}$"
    ):
        PoolIndex.build(Pool(str(root)), tmp_path / "cache", shard_cache_gb=20e-6)


def test_the_cache_stays_within_its_bound_and_all_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "_STEP", 4096)
    root = write_pool(tmp_path / "pool", {f"{shard:02d}": 10 for shard in range(6)})
    expected = contents(PoolIndex.build(Pool(str(root)), tmp_path / "cache_of_plain"))
    size = max(path.stat().st_size for path in (root / "shards").iterdir())
    pack(root / "shards", ".tar.gz")
    limit = 3 * size
    index = PoolIndex.build(Pool(str(root)), tmp_path / "cache", shard_cache_gb=limit / 1e9)
    for row in np.random.default_rng(0).permutation(len(index)):
        found = index.read(int(row))
        assert (found.uid, found.shard, found.key, found.image, found.caption) == expected[row]
        assert sum(path.stat().st_size for path in (tmp_path / "cache" / "shards").iterdir()) <= limit


def test_a_packed_shard_that_changed_is_refused_and_indexed_anew_by_the_next_start(tmp_path):
    root = write_pool(tmp_path / "pool", {"00": 3})
    pack(root / "shards", ".tar.gz")
    index = PoolIndex.build(Pool(str(root)), tmp_path / "cache")
    index.read(0)
    write_pool(tmp_path / "pool", {"00": 3}, start=50)
    pack(root / "shards", ".tar.gz")
    os.utime(root / "shards" / "00.tar.gz", (1, 1))
    with pytest.raises(ClipsiftError, match=r"00\.tar\.gz: has another size or time of change"):
        index.read(1)
    assert PoolIndex.build(Pool(str(root)), tmp_path / "cache").read(0).caption == "picture number 50"


def test_a_packed_shard_is_unpacked_once(tmp_path, monkeypatch):
    root = write_pool(tmp_path / "pool", {"00": 3})
    pack(root / "shards", ".tar.gz")
    PoolIndex.build(Pool(str(root)), tmp_path / "cache")
    monkeypatch.setattr(shard_cache, "unpack", lambda *_: pytest.fail("unpacked again"))
    assert len(contents(PoolIndex.build(Pool(str(root)), tmp_path / "cache"))) == 3


def test_what_python_lacks_is_said_with_its_remedy(tmp_path, monkeypatch):
    root = write_pool(tmp_path / "pool", {"00": 3})
    shard = root / "shards" / "00.tar"
    shard.rename(f"{shard}.zst")
    monkeypatch.delitem(compr, "zstd", raising=False)
    with pytest.raises(
        ClipsiftError, match=r"pip install 'clipsift\[zstd\]', or unpack it: zstd -d --rm .*00\.tar\.zst$"
    ):
        PoolIndex.build(Pool(str(root)), tmp_path / "cache")
