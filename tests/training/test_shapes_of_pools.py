"""Pools that are no plain tars train on the same batches as the plain tars of the same samples."""

from __future__ import annotations

import shutil

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from helpers.packing import pack
from helpers.parquets import TABLES, rows_of, write_parquet


def first_batches(data, count=3):
    data.setup("fit")
    loader = iter(data.train_dataloader())
    return [next(loader) for _ in range(count)]


def same(first, second):
    return all(
        torch.equal(one[name], two[name]) for one, two in zip(first, second) for name in ("image", "text", "uid")
    )


@pytest.mark.parametrize("window", [None, 2])
def test_packed_shards_give_the_same_batches(workspace, make_data, tmp_path, window):
    packed = shutil.copytree(workspace / "pool", tmp_path / "packed")
    pack(packed, ".tar.gz")
    for workers in (0, 1):
        plain = first_batches(make_data(shuffle_window=window))
        data = make_data(pool=str(packed), cache=str(tmp_path / "cache"), shuffle_window=window, workers=workers)
        assert same(first_batches(data), plain)
    for unpacked in (tmp_path / "cache" / "shards").iterdir():
        unpacked.unlink()  # another node
    assert same(first_batches(data), plain)


def test_packed_shards_that_the_cache_cannot_hold_at_once_need_a_window(workspace, make_data, tmp_path):
    packed = shutil.copytree(workspace / "pool", tmp_path / "packed")
    sizes = sorted(path.stat().st_size for path in packed.glob("*.tar"))
    pack(packed, ".tar.gz")
    small = {"pool": str(packed), "cache": str(tmp_path / "cache"), "shard_cache_gb": (sum(sizes) - 1) / 1e9}
    with pytest.raises(
        ClipsiftError, match=r"all shards together, .*unpack them \(gunzip .*set data\.shuffle_window: 16"
    ):
        make_data(**small).setup("fit")
    assert same(first_batches(make_data(**small, shuffle_window=1)), first_batches(make_data(shuffle_window=1)))


@pytest.mark.parametrize("layout", ["hub", "img2dataset"])
def test_parquets_with_pictures_give_the_same_batches(workspace, make_data, tmp_path, layout):
    for tar in (workspace / "pool").glob("*.tar"):
        write_parquet(tmp_path / "parquet" / "data" / f"{tar.stem}.parquet", TABLES[layout](rows_of(tar)))
    data = make_data(pool=str(tmp_path / "parquet"), cache=str(tmp_path / "cache"))
    assert same(first_batches(data), first_batches(make_data()))
