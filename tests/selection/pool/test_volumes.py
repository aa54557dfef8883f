"""An index of volumes: rows, repeated uids and the rows of a subset are those of one table in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clipsift_common.files import array_fingerprint
from helpers.made_up_index import made_up_pool, random_uids
from selection.pool import build
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.pool.volumes import kept, repeats, volume
from selection.subset import Subset

SIZES = (40, 0, 7, 100, 1, 63, 0, 25, 90)
NAMES = [f"{number:02d}" for number in range(len(SIZES))]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes of two or three shards, and pieces of a few uids."""
    monkeypatch.setattr(build, "VOLUME_ROWS", 60)
    for module in (volume, repeats):
        monkeypatch.setattr(module, "STRIDE", 4)
    monkeypatch.setattr(repeats, "STRETCH_UIDS", 24)
    monkeypatch.setattr(kept, "_PIECE", 16)
    monkeypatch.setattr(kept, "UIDS_PRINTED", 37)


def tables(seed: int, distinct: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: random_uids(rng, size, distinct) for name, size in zip(NAMES, SIZES)}


def joined(shards: dict[str, np.ndarray]) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Of each uid the first: its shard, its row there, itself."""
    seen = set()
    for number, name in enumerate(sorted(shards)):
        for row, uid in enumerate(shards[name].tolist()):
            if uid not in seen:
                seen.add(uid)
                yield number, row, uid


@pytest.mark.parametrize("distinct", [3, 8, 1000])
@pytest.mark.parametrize("grown", [False, True])
def test_the_rows_are_the_first_of_each_uid(tmp_path: Path, distinct: int, grown: bool) -> None:
    shards = tables(distinct, distinct)
    if grown:  # half of the shards are in volumes already, every second one
        half = {name: shards[name] for name in NAMES[::2]}
        PoolIndex.build(made_up_pool(tmp_path / "pool", tmp_path / "cache", half.items()), tmp_path / "cache")
        rest = {name: shards[name] for name in NAMES[1::2]}
        pool = made_up_pool(tmp_path / "pool", tmp_path / "cache", rest.items())
    else:
        pool = made_up_pool(tmp_path / "pool", tmp_path / "cache", shards.items())
    index = PoolIndex.build(pool, tmp_path / "cache")
    expected = list(joined(shards))
    assert [(row["shard"], row["image_offset"] // 1000, tuple(row["uid"].tolist()))
            for row in index.entries(range(len(index)))] == expected  # fmt: skip
    assert index.uids.tolist() == [uid for *_, uid in expected]
    assert [len(index.shard_rows(number)) for number in range(len(SIZES))] == [
        sum(shard == number for shard, *_ in expected) for number in range(len(SIZES))
    ]
    assert index.report.samples == sum(SIZES)
    assert index.report.lost["duplicate_uid"] == sum(SIZES) - len(expected)
    assert len(index.table.volumes) > 2
    assert PoolIndex.build(pool, tmp_path / "cache").fingerprint == index.fingerprint


def test_examples_of_what_is_repeated_are_the_first(tmp_path: Path) -> None:
    shards = tables(0, 6)
    index = PoolIndex.build(made_up_pool(tmp_path / "pool", tmp_path / "cache", shards.items()), tmp_path / "cache")
    first = {uid: number for number, _, uid in joined(shards)}
    rows = {(number, row) for number, row, _ in joined(shards)}
    expected = [
        (NAMES[number], f"{uid[0]:016x}{uid[1]:016x}", f"{NAMES[first[uid]]} has it")
        for number, name in enumerate(NAMES)
        for row, uid in enumerate(shards[name].tolist())
        if (number, row) not in rows
    ]
    examples = index.report.examples["duplicate_uid"]
    assert [(there["shard"], there["key"], there["detail"]) for there in examples] == expected[:20]


@pytest.mark.parametrize("distinct", [5, 1000])
def test_the_rows_of_a_subset(tmp_path: Path, distinct: int) -> None:
    """Repeated by multiplicity, in pool order; kept rows are these, and so are fingerprints of their uids."""
    shards = tables(1, distinct)
    index = PoolIndex.build(made_up_pool(tmp_path / "pool", tmp_path / "cache", shards.items()), tmp_path / "cache")
    uids = [uid for *_, uid in joined(shards)]
    rng = np.random.default_rng(2)
    counts = rng.integers(3, size=len(uids))
    wanted = np.repeat(np.array(uids, volume.UID_DTYPE), counts)
    subset = Subset(np.concatenate([wanted, random_uids(rng, 30, 10**6)]))
    expected = np.repeat(np.arange(len(uids)), counts)
    assert index.rows_of(subset).tolist() == expected.tolist()
    loads = []
    for _ in range(2):
        found = index.kept("1234", lambda: loads.append(1) or subset)  # type: ignore[func-returns-value]
        assert found.rows.tolist() == expected.tolist()
        assert (found.num_wanted, found.num_unique) == (len(subset), np.count_nonzero(counts))
        pieces = [wanted[start : start + 37] for start in range(0, len(wanted), 37)]
        assert found.uids == [array_fingerprint(piece) for piece in pieces]
    assert len(loads) == 1
    path = index.folder / "kept-1234" / "rows.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert index.kept("1234", lambda: loads.append(1) or subset).rows.tolist() == expected.tolist()  # type: ignore[func-returns-value]
    assert len(loads) == 2
    missing = random_uids(rng, 3, 10**6)
    asked = np.concatenate([np.array(uids[::-1], volume.UID_DTYPE), missing])
    assert index.find(asked).tolist() == [*reversed(range(len(uids))), -1, -1, -1]


def test_two_pools_share_volumes_and_each_has_its_own_rows(tmp_path: Path) -> None:
    """What the one has first, the other has too, where it has the shard at all."""
    shards = tables(3, 6)
    pool = made_up_pool(tmp_path / "pool", tmp_path / "cache", shards.items())
    whole = PoolIndex.build(pool, tmp_path / "cache")
    some = {name: shards[name] for name in NAMES[3:]}
    part = PoolIndex.build(pool.part(pool.shards[3:]), tmp_path / "cache")
    assert part.uids.tolist() == [uid for *_, uid in joined(some)]
    assert {one.name for one in part.table.volumes} <= {one.name for one in whole.table.volumes}
    assert len(list((tmp_path / "cache/index").glob("*.volume"))) == len(whole.table.volumes)
    assert isinstance(pool, Pool)
