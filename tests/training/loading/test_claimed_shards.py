"""Remote shards that a parquet beside them describes are trained on at once, in the local pool's batches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.pictures import picture
from helpers.pools import sample
from helpers.range_server import RangeServer, serve
from helpers.tars import write_tar
from helpers.training_run import uid_of
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from selection.uids import parse_uids
from training.data import PoolDataModule

PER_SHARD, WINDOW, BATCH, STEPS = 6, 2, 8, 6


def write_shards(folder: Path, count: int, size: tuple[int, int], without_uid: bool = False) -> None:
    """Shards as img2dataset leaves them: failed addresses are in the parquet alone; every third sample is kept."""
    folder.mkdir(parents=True)
    images = [picture(number, size) for number in range(20)]
    for shard in range(count):
        members, table = [], []
        for row in range(PER_SHARD):
            number = shard * PER_SHARD + row
            uid, key = None if without_uid else uid_of(number), f"{shard:05d}{row:04d}"
            table.append({"key": key, "status": "success", "uid": uid})
            table.append({"key": f"{key}9", "status": "failed_to_download", "uid": uid_of(number + 10**6)})
            document = json.dumps({"key": key} | ({} if without_uid else {"uid": uid})).encode()
            members += sample(key, number, jpg=images[number % 20], json=document)
        write_tar(folder / f"{shard:05d}.tar", members)
        pq.write_table(pa.Table.from_pylist(table), folder / f"{shard:05d}.parquet")


def module(pool: str, out: Path, subset: Path, model: str, **options: Any) -> PoolDataModule:
    how = {"samples_seen": BATCH * STEPS, "global_batch": BATCH, "workers": 0, "seed": 5} | options
    return PoolDataModule(pool=pool, out=str(out), model=model, subset=str(subset), **how)


def steps(data: PoolDataModule, after_first: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    data.setup("fit")
    batches = []
    for batch in data.train_dataloader():
        batches.append(batch)
        if len(batches) == 1:
            after_first()
    return batches


def check_same(here: list[dict[str, Any]], there: list[dict[str, Any]]) -> None:
    assert len(here) == len(there) == STEPS
    for one, two in zip(here, there):
        for name in ("image", "text", "uid"):
            assert torch.equal(one[name], two[name])


def compare(folder: Path, model: str, count: int, delay: float, size: tuple[int, int], share: float) -> RangeServer:
    """Batches from a slow server are those from the disk; the first comes after ``share`` of the bytes."""
    pool = folder / "pool"
    write_shards(pool, count, size)
    uids = [uid_of(number) for number in range(0, count * PER_SHARD, 3)]
    Subset(parse_uids(uids)).save(folder / "subset.npy")
    local = steps(module(str(pool), folder / "local", folder / "subset.npy", model, shuffle_window=WINDOW))
    total = sum(path.stat().st_size for path in pool.iterdir())
    with serve(pool) as server:
        server.misbehave = lambda path, number: time.sleep(delay)  # type: ignore[func-returns-value]
        location = f"{server.url}/{{00000..{count - 1:05d}}}.tar"
        sent: list[int] = []
        data = module(location, folder / "remote", folder / "subset.npy", model, shuffle_window=WINDOW)
        remote = steps(data, lambda: sent.append(server.sent.total()))
    check_same(local, remote)
    assert sent[0] < share * total
    assert data.index is not None
    assert data.index.report.samples == count * PER_SHARD
    return server


@pytest.fixture
def model(workspace: Path) -> str:
    return str(workspace / "tiny.json")


def test_the_first_step_comes_before_the_pool(tmp_path: Path, model: str) -> None:
    server = compare(tmp_path, model, 20, 0.001, (200, 180), 0.35)  # two windows are a fifth of 20 shards
    windows = -(-BATCH * STEPS // (WINDOW * PER_SHARD // 3)) + 2
    assert sum(path.endswith(".tar") for path in server.sent) <= windows * WINDOW


@pytest.mark.slow
def test_a_thousand_shards_behind_a_slow_server(tmp_path: Path, model: str) -> None:
    compare(tmp_path, model, 1000, 0.02, (200, 180), 0.05)


def test_samples_without_a_uid_have_the_uids_of_the_local_index(tmp_path: Path) -> None:
    write_shards(tmp_path / "pool", 2, (40, 40), without_uid=True)
    local = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "a")
    with serve(tmp_path / "pool") as server:
        remote = PoolIndex.build(Pool(f"{server.url}/{{00000..00001}}.tar"), tmp_path / "b", by_claims=True)
        assert not any(path.endswith(".tar") for path in server.sent)
        assert remote.uids.tolist() == local.uids.tolist()
        assert [remote.read(row) for row in range(len(remote))] == [local.read(row) for row in range(len(local))]


def test_what_a_shard_does_not_have_is_replaced_and_counted(tmp_path: Path, model: str) -> None:
    """The parquet lists a sample whose caption is missing; one shard has no parquet, and is fetched for its index."""
    pool = tmp_path / "pool"
    write_shards(pool, 4, (40, 40))
    members = sample("000010000", 6, jpg=picture(6), txt=None, json=json.dumps({"uid": uid_of(6)}).encode())
    for row in range(1, PER_SHARD):
        document = json.dumps({"uid": uid_of(PER_SHARD + row)}).encode()
        members += sample(f"00001{row:04d}", PER_SHARD + row, json=document)
    write_tar(pool / "00001.tar", members)
    (pool / "00003.parquet").unlink()
    Subset(parse_uids([uid_of(number) for number in range(4 * PER_SHARD)])).save(tmp_path / "subset.npy")
    with serve(pool) as server:
        location = f"{server.url}/{{00000..00003}}.tar"
        data = module(location, tmp_path / "run", tmp_path / "subset.npy", model, shuffle_window=WINDOW, max_loss=0.5)
        data.setup("fit")
        assert {path for path in server.sent if path.endswith(".tar")} == {"/00003.tar"}
        loader = data.train_dataloader()
        batches = list(loader)
    assert loader.report.lost["absent_sample"] > 0
    missing = parse_uids([uid_of(6)]).view(np.int64).tolist()
    assert all(missing not in batch["uid"].tolist() for batch in batches)
