"""Training batches from web and S3 servers, within windows and by weight: those of the same shards on a disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from helpers.range_server import serve
from helpers.training_run import NUM_KEPT, PER_SHARD, uid_of
from selection.pool import remote
from selection.pool.location import Pool
from selection.uids import parse_uids
from training.data import PoolDataModule, shard_weights

SHARDS = "{00000000..00000002}.tar"


def batches(data: PoolDataModule, start: int = 0) -> list[dict[str, Any]]:
    data.setup("fit")
    loader = data.train_dataloader()
    loader.load_state_dict({"step": start, "order": loader.order})
    return list(loader)


def same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one[name], two[name]) for one, two in zip(first, second) for name in ("image", "text", "uid")
    )


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote, "CHUNK", 8192)


@pytest.mark.parametrize(("workers", "window"), [(0, 2), (2, None), (0, 0)])
def test_a_web_server_gives_the_same_batches(workspace, make_data, tmp_path, hasty, workers, window):
    local = batches(make_data(shuffle_window=16 if window is None else window))
    with serve(workspace / "pool") as server:
        server.misbehave = lambda path, number: ("cut", "busy", None)[number % 3]
        location = {"pool": f"{server.url}/{SHARDS}", "cache": str(tmp_path / "cache"), "shuffle_window": window}
        data = make_data(**location, workers=workers)
        assert same(batches(data), local)
        assert same(batches(make_data(**location, workers=workers), start=5), local[5:])
    assert data.index is not None
    assert data.index.is_streamed == (window != 0)


def test_a_server_that_dies_ends_the_run_with_the_shards_name(
    workspace, make_data, make_module, machine, tmp_path, hasty
):
    from training.fit import fit

    with serve(workspace / "pool") as server:
        data = make_data(pool=f"{server.url}/{SHARDS}", cache=str(tmp_path / "cache"), workers=1)
        data.setup("fit")
        for cached in (tmp_path / "cache" / "shards").iterdir():
            cached.unlink()
        server.misbehave = lambda path, number: "cut" if path == "/00000001.tar" else None
        with pytest.raises(ClipsiftError, match=r"/00000001\.tar: cannot be read after 6 tries"):
            fit(make_module(), data, tmp_path / "run", machine)


@pytest.fixture(scope="module")
def bucket(workspace) -> Iterator[str]:
    """The pool in a bucket of a real S3 server on loopback."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="pool")
        for tar in (workspace / "pool").iterdir():
            client.upload_file(str(tar), "pool", f"shards/{tar.name}")
        yield "s3://pool"
    server.stop()


def test_an_s3_server_gives_the_same_batches(bucket, make_data, tmp_path):
    assert [shard.name for shard in Pool(bucket).shards] == ["00000000", "00000001", "00000002"]
    local = batches(make_data(shuffle_window=2))
    for workers in (0, 1):
        data = make_data(pool=bucket, cache=str(tmp_path / f"cache{workers}"), shuffle_window=2, workers=workers)
        assert same(batches(data), local)
    assert same(
        batches(make_data(pool=f"{bucket}/shards/*.tar", cache=str(tmp_path / "ranges"), shuffle_window=0)),
        batches(make_data()),
    )


def test_windows_train_on_every_sample_once_per_pass(make_data):
    flat = [tuple(uid) for batch in batches(make_data(shuffle_window=1)) for uid in batch["uid"].tolist()]
    assert set(Counter(flat[:NUM_KEPT]).values()) == set(Counter(flat[NUM_KEPT : 2 * NUM_KEPT]).values()) == {1}
    assert set(flat[:NUM_KEPT]) == set(flat[NUM_KEPT : 2 * NUM_KEPT])


def test_weights_choose_among_shards(make_data):
    data = make_data(sampling="resampled", weights={"00000002.tar": 3.0, "*1": 1.0, "*": 0.5}, samples_seen=8000)
    data.setup("fit")
    assert data.order is not None
    drawn = data.order.at(np.arange(20_000))
    shares = [((drawn >= first) & (drawn < first + PER_SHARD)).mean() for first in (13, 14, 28)]
    assert shares[2] == pytest.approx(3 * 14 / (0.5 + 14 + 3 * 14), abs=0.02)  # 1, 14 and 14 kept samples
    seen = {
        tuple(uid)
        for batch in batches(make_data(sampling="resampled", weights={"*2": 0.0}))
        for uid in batch["uid"].tolist()
    }
    last = parse_uids([uid_of(number) for number in range(28, 42)]).view(np.int64).reshape(-1, 2).tolist()
    assert not seen & {tuple(uid) for uid in last}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"x*": 1.0}, "x.* fits none of the 3"),
        ({"*": -1.0}, ".* has the weight -1.0"),
        ({"*": 0.0}, ".*all shards have the weight 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(workspace, weights, message):
    with pytest.raises(ClipsiftError, match=rf"data\.weights: {message}"):
        shard_weights(Pool(str(workspace / "pool")).shards, weights)


def test_settings_that_contradict_are_refused(make_data, workspace, tmp_path):
    with pytest.raises(ClipsiftError, match=r"data\.weights: need data\.sampling resampled"):
        make_data(weights={"*": 2.0})
    pipe = {"pool": f"pipe:cat {workspace}/pool/{SHARDS}", "cache": str(tmp_path / "cache")}
    with pytest.raises(ClipsiftError, match=r"data\.shuffle_window: 0 reads samples one by one"):
        make_data(**pipe, shuffle_window=0).setup("fit")
    assert same(batches(make_data(**pipe)), batches(make_data(shuffle_window=16)))
    size = (Path(workspace) / "pool" / "00000000.tar").stat().st_size
    with pytest.raises(ClipsiftError, match=r"data\.shard_cache_gb: two windows of 1 shards"):
        make_data(**pipe, shuffle_window=1, shard_cache_gb=1.5 * size / 1e9).setup("fit")
