from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from helpers.pictures import picture
from helpers.pools import sample
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.reshard import reshard
from selection.subset import Subset
from selection.uids import format_uids, parse_uids


@pytest.fixture
def index(tmp_path: Path) -> PoolIndex:
    """Two shards of six; number 3 has another member too, number 9 no json."""
    members = [(name, data) for number in range(6) for name, data in sample(f"{number:012d}", number)]
    members.insert(
        next(i for i, (name, _) in enumerate(members) if name.startswith("000000000004")), ("000000000003.pkl", b"x")
    )
    write_tar(tmp_path / "pool" / "00000000.tar", members)
    members = [
        m
        for number in range(6, 12)
        for m in sample(f"{number:012d}", number, **({"json": None} if number == 9 else {}))
    ]
    write_tar(tmp_path / "pool" / "00000001.tar", members)
    return PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache")


def subset_of(index: PoolIndex, counts: dict[int, int]) -> Subset:
    return Subset(np.repeat(index.uids[list(counts)], list(counts.values())))


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_members_are_copied_as_bytes_as_often_as_the_uid_occurs(index: PoolIndex, tmp_path: Path) -> None:
    subset = subset_of(index, {1: 1, 3: 3, 7: 1, 9: 2})
    about = reshard(index, subset, tmp_path / "out", shard_size=3)
    assert (about["kept"], about["unique"], about["missing"], about["shards"]) == (7, 4, 0, 3)
    shards = [read_tar(tmp_path / "out" / f"{number:08d}.tar") for number in range(3)]
    uids = format_uids(index.uids)
    keys = [list(dict.fromkeys(name.split(".")[0] for name in shard)) for shard in shards]
    assert keys == [
        [f"{uids[1]}-0", f"{uids[3]}-0", f"{uids[3]}-1"],
        [f"{uids[3]}-2", f"{uids[7]}-0", f"{uids[9]}-0"],
        [f"{uids[9]}-1"],
    ]
    assert shards[0][f"{uids[1]}-0.jpg"] == picture(1)
    assert shards[0][f"{uids[1]}-0.txt"] == b"picture number 1"
    assert shards[1][f"{uids[3]}-2.pkl"] == b"x"
    assert json.loads(shards[2][f"{uids[9]}-1.json"]) == {"uid": uids[9]}
    assert [read_json(tmp_path / "out" / f"{number:08d}_stats.json")["successes"] for number in range(3)] == [3, 3, 1]
    assert Subset.load(tmp_path / "out" / "sample_ids.npy") == subset
    copy = PoolIndex.build(Pool(str(tmp_path / "out")), tmp_path / "other")
    assert set(format_uids(copy.uids)) == {uids[number] for number in (1, 3, 7, 9)}


def test_a_second_start_makes_what_is_missing_and_only_that(index: PoolIndex, tmp_path: Path) -> None:
    subset, out = subset_of(index, dict.fromkeys(range(10), 1)), tmp_path / "out"
    reshard(index, subset, out, shard_size=4)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.tar")}
    (out / "00000001_stats.json").unlink()
    (out / "00000001.tar").write_bytes(b"half")
    reshard(index, subset, out, shard_size=4)
    after = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.glob("*.tar")}
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert [name for name in after if after[name] != before[name]] == ["00000001.tar"]
    with pytest.raises(ClipsiftError, match="shards of another pool, subset or size"):
        reshard(index, subset, out, shard_size=5)


def test_what_the_pool_lacks_is_counted_and_a_changed_shard_refused(index: PoolIndex, tmp_path: Path) -> None:
    absent = Subset(parse_uids(["f" * 32]))
    with pytest.raises(ClipsiftError, match="none of the subset's 1 uids"):
        reshard(index, absent, tmp_path / "none")
    assert reshard(index, absent | subset_of(index, {2: 1}), tmp_path / "one")["missing"] == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "0.tar").write_bytes(b"")
    with pytest.raises(ClipsiftError, match="holds shards already"):
        reshard(index, subset_of(index, {2: 1}), tmp_path / "full")
    shard = tmp_path / "pool" / "00000000.tar"
    with tarfile.open(fileobj=io.BytesIO(shard.read_bytes())) as tar:
        first = tar.next()
    assert first is not None
    shard.write_bytes(shard.read_bytes()[first.offset_data + (first.size + 511) // 512 * 512 :])
    with pytest.raises(ClipsiftError, match="has another size or time of change"):
        reshard(index, subset_of(index, {2: 1}), tmp_path / "changed")
    assert not list((tmp_path / "changed").glob("*.tar"))
