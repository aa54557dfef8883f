"""Odd pools end well or clearly: few shards, uneven shards, shards lost on the way; and memory stays what it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from helpers.training_run import write_shards
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from training.fit import fit
from training.loading.loader import StepDataset


def rank_batches(data, rank: int, world_size: int) -> list[list[list[int]]]:
    """The uids of each of a rank's batches."""
    assert data.index is not None
    one = data.train_dataloader().dataset
    dataset = StepDataset(data.index, data.order, one.transform, one.tokenizer, rank, world_size)
    return [dataset[step][0]["uid"].tolist() for step in range(data.total_steps)]


@pytest.mark.parametrize("window", [0, 1])
def test_three_uneven_shards_on_two_ranks(make_data, tmp_path, window):
    pool = write_shards(tmp_path / "pool", [17, 3, 6])
    Subset(PoolIndex.build(Pool(str(pool)), tmp_path / "cache").uids).save(tmp_path / "all.npy")
    data = make_data(
        pool=str(pool), cache=str(tmp_path / "cache"), subset=str(tmp_path / "all.npy"), samples_seen=26 * 4,
        global_batch=4, shuffle_window=window,
    )  # fmt: skip
    data.setup("fit")
    first, second = rank_batches(data, 0, 2), rank_batches(data, 1, 2)
    assert [len(batch) for batch in first] == [len(batch) for batch in second] == [2] * 26
    seen = Counter(tuple(uid) for batches in (first, second) for batch in batches for uid in batch)
    assert set(seen.values()) == {4}
    assert len(seen) == 26
    assert rank_batches(data, 0, 1) == [one + two for one, two in zip(first, second)]


def test_one_shard_and_more_workers(make_data, tmp_path):
    pool = write_shards(tmp_path / "pool", [10])
    Subset(PoolIndex.build(Pool(str(pool)), tmp_path / "cache").uids).save(tmp_path / "all.npy")
    runs = []
    for workers in (0, 3):
        data = make_data(
            pool=str(pool), cache=str(tmp_path / "cache"), subset=str(tmp_path / "all.npy"), workers=workers,
            samples_seen=24,
        )  # fmt: skip
        data.setup("fit")
        runs.append([batch["image"] for batch in data.train_dataloader()])
    assert len(runs[0]) == 3
    assert all(torch.equal(one, two) for one, two in zip(*runs))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("harm", ["lost", "changed", "cut"])
def test_a_shard_that_goes_after_indexing_ends_the_run(make_data, make_module, machine, tmp_path, workers, harm):
    pool = write_shards(tmp_path / "pool", [14, 14])
    Subset(PoolIndex.build(Pool(str(pool)), tmp_path / "cache").uids).save(tmp_path / "all.npy")
    data = make_data(
        pool=str(pool), cache=str(tmp_path / "cache"), subset=str(tmp_path / "all.npy"), workers=workers
    )  # fmt: skip
    data.setup("fit")
    tar = pool / "00000001.tar"
    if harm == "lost":
        tar.unlink()
    else:
        tar.write_bytes(tar.read_bytes()[: 4000 if harm == "cut" else None])
    message = "cannot be read any more" if harm == "lost" else "has another size or time of change"
    with pytest.raises(ClipsiftError, match=rf"1\.tar: {message}"):
        fit(make_module(), data, tmp_path / "run", machine)


@pytest.mark.slow
@pytest.mark.parametrize("window", [0, 2])
def test_memory_does_not_grow_over_twenty_passes(make_data, workspace, window):
    """What open_clip's persistent workers do (webdataset issue 365): here every pass is the same work again."""
    data = make_data(global_batch=29, samples_seen=29 * 23, shuffle_window=window)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    for step in range(60):
        dataset[step]
    before = resident()
    for step in range(60, 60 + 20 * 30):
        dataset[step]
    assert resident() - before < 8e6


def resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
