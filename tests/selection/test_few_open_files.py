"""A pool of many small files needs no more open files than one of a few large ones."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.features import unit_array
from helpers.pools import write_pool
from selection.features.files import write_feature_file
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import parse_uids


@pytest.fixture(params=[0, 400])
def few_open_files(request: pytest.FixtureRequest) -> Iterator[None]:
    """Room for 40 more than there are, among few others or many."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(request.param)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for other in others:
        os.close(other)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_files_are_closed(tmp_path: Path, few_open_files: None) -> None:
    for number in range(100):
        rows = unit_array(np.random.default_rng(number), 4, 8)
        uids = parse_uids([f"{number:04x}{row:04x}" for row in range(4)])
        write_feature_file(tmp_path / "pool/metadata", "l14", f"{number:03d}", uids, ["a"] * 4, rows, rows[::-1])
    steps = [{"score": "clip_score", "keep": 0.5}, {"method": "semdedup", "epsilon": 0.0, "clusters": 3}]
    selector = Selector(Selection(features="l14", steps=steps), Pool(str(tmp_path / "pool")), tmp_path, tmp_path / "c")
    assert len(Subset.load(selector.run())) > 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_many_shards_are_read(tmp_path: Path, few_open_files: None) -> None:
    """In an order that jumps about; each index has files of its own."""
    pool = Pool(str(write_pool(tmp_path / "pool", {f"{number:03d}": 1 for number in range(70)})))
    index = PoolIndex.build(pool, tmp_path / "cache")
    numbers = [row * 37 % 70 for row in range(140)]
    assert [index.read(row).caption for row in numbers] == [f"picture number {row + 1}" for row in numbers]
