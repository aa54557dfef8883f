"""Pools in repositories of the Hugging Face Hub, here one on loopback: the samples of the same files on a disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fsspec
import huggingface_hub
import pytest

from clipsift_common.errors import ClipsiftError
from helpers.hub_server import Hub
from helpers.parquets import TABLES, rows_of, write_parquet
from helpers.pools import write_pool
from selection.pool import remote
from selection.pool.index import PoolIndex
from selection.pool.location import Pool

POOL = "hf://datasets/someone/pairs"
LAST = "someone/pairs/data/train-00001-of-00002.parquet"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A data set as the hub has it: ``data/train-*.parquet``, a README, and a tar in another folder."""
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(remote, "CHUNK", 4096)
    folder = tmp_path / "hub" / "someone" / "pairs"
    tars = write_pool(tmp_path / "plain", {"00": 4, "01": 3}) / "shards"
    for number, tar in enumerate(sorted(tars.glob("*.tar"))):
        name = f"train-{number:05d}-of-00002.parquet"
        write_parquet(folder / "data" / name, TABLES["hub"](rows_of(tar)), row_group_size=2)
    write_pool(folder / "more", {"02": 2}, start=8)
    (folder / "README.md").write_text("# Pairs")
    with Hub(tmp_path / "hub") as server:
        # What the library makes of HF_ENDPOINT when it is imported:
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def contents(pool: str | Path, cache: Path) -> list[tuple[str, bytes, str]]:
    index = PoolIndex.build(Pool(str(pool)), cache)
    found = [index.read(row) for row in range(len(index))]
    return [(sample.uid, sample.image, sample.caption) for sample in found]


def test_a_repository_gives_the_samples_of_its_files(hub, tmp_path):
    on_disk = contents(hub.folder / "someone" / "pairs", tmp_path / "local")
    assert len(on_disk) == 9
    assert contents(POOL, tmp_path / "cache") == on_disk
    asked = len(hub.requests)
    assert contents(POOL, tmp_path / "cache") == on_disk
    assert {name for name, _ in hub.requests[asked:]} <= {LAST, LAST.replace("00001-", "00000-")}  # their columns


@pytest.mark.parametrize("pattern", ["data/*.parquet", "data/train-{00000..00001}-of-00002.parquet"])
def test_patterns_choose_files_of_a_repository(hub, tmp_path, pattern):
    assert [int(uid, 16) for uid, _, _ in contents(f"{POOL}/{pattern}", tmp_path / "cache")] == [1, 2, 3, 4, 5, 6, 7]


def test_a_file_that_changed_is_indexed_anew(hub, tmp_path):
    before = contents(f"{POOL}/data", tmp_path / "cache")
    rows = rows_of(tmp_path / "plain" / "shards" / "01.tar")
    rows[1]["caption"] = "picture number X"
    write_parquet(hub.folder / LAST, TABLES["hub"](rows), row_group_size=2)
    fsspec.get_filesystem_class("hf").clear_instance_cache()  # as a new process has none
    changed = contents(f"{POOL}/data", tmp_path / "cache")
    assert [row for row, (old, new) in enumerate(zip(before, changed)) if old != new] == [5]


def test_a_hub_that_fails_ends_the_run_with_the_files_name(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "TRIES", 2)
    pool = Pool(f"{POOL}/data")
    hub.faults[LAST] = ["404"] * 40
    with pytest.raises(ClipsiftError, match=r"train-00001-of-00002\.parquet: cannot be read"):
        PoolIndex.build(pool, tmp_path / "cache")


def test_what_is_not_there_is_said(hub):
    with pytest.raises(ClipsiftError, match=r"hf://datasets/someone/else does not exist"):
        Pool("hf://datasets/someone/else")
