"""Placeholders: samples whose pictures have the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.pictures import picture
from helpers.pools import sample
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool


@pytest.mark.parametrize(("copies", "shards", "noted"), [(60, 1, 60), (60, 3, 60), (300, 1, 300), (4, 1, 0), (0, 1, 0)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_pictures_with_the_same_bytes_are_used_and_counted(
    tmp_path: Path, copies: int, shards: int, noted: int, format: str
) -> None:
    same = picture(0, (16, 16), format)
    for shard in range(shards):
        first = 1000 * shard
        members = [member for n in range(40) for member in sample(f"own{n}", first + n + 1, jpg=picture(first + n + 1))]
        for n in range(copies // shards):
            members += sample(f"same{n}", first + 500 + n, jpg=same)
        write_tar(tmp_path / "pool" / f"{shard}.tar", members)
    report = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache").report
    assert report.noted["identical_image"] == noted
    assert report.num_lost == 0


def test_pictures_of_one_size_with_other_bytes_are_not_the_same(tmp_path: Path) -> None:
    start = picture(1)
    members = [member for n in range(30) for member in sample(f"{n}", n + 1, jpg=start + n.to_bytes(2, "big"))]
    write_tar(tmp_path / "pool" / "0.tar", members)
    assert PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache").report.noted == {}
