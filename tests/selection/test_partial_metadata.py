"""A pool whose metadata are of some of its shards only: the others are named and counted before anything is scored."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from clipsift_app.doctor.files import check_files
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.machine import Machine
from helpers.features import unit_array
from helpers.pools import write_pool
from selection.features.files import write_feature_file
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import format_uids, parse_uids

SHARDS = {"00000": 8, "00001": 6, "00002": 7, "00003": 9}  # uids count up from 1
STARTS = dict(zip(SHARDS, (1, 9, 15, 22)))


def write_metadata(place: Path, shard: str, count: int | None = None) -> None:
    """Metadata of a shard, called like it, of as many rows as it has."""
    count = count or SHARDS[shard]
    uids = parse_uids([f"{STARTS[shard] + row:032x}" for row in range(count)])
    rng = np.random.default_rng(STARTS[shard])
    features = [unit_array(rng, count, 8) for _ in range(2)]
    write_feature_file(place.parent, "l14", place.name, uids, ["c"] * count, *features)


def select(pool: Path | str, out: Path, max_loss: float) -> dict[str, Any]:
    selection = Selection(None, "l14", [{"score": "clip_score", "keep": 1.0}])
    machine = Machine(accelerator="cpu", devices=1)
    Selector(selection, Pool(str(pool)), out, out / "cache", 0, machine, max_loss=max_loss).run()
    return read_json(out / "selection" / "data_report.json")


def kept(out: Path) -> list[int]:
    return [int(uid, 16) for uid in format_uids(Subset.load(out / "selection" / "subset.npy").uids)]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool", SHARDS)


LAYOUTS = ("shards/{}", "metadata/{}", "shards/metadata/{}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_shards_without_metadata_are_refused_by_name_and_count(tmp_path: Path, pool: Path, layout: str) -> None:
    for shard in ("00000", "00002"):
        write_metadata(pool / layout.format(shard), shard)
    for shard in ("00001", "00003"):
        (pool / "shards" / f"{shard}_stats.json").write_text(json.dumps({"successes": SHARDS[shard]}))
    with pytest.raises(ClipsiftError, match=r"15 of 30 samples lost \(50\.00%; no_metadata 15\).*00001\.tar"):
        select(pool, tmp_path / "strict", 0.4)
    assert not (tmp_path / "strict" / "selection" / "scores").exists()
    report = select(pool, tmp_path / "run", 0.5)
    assert (report["samples"], report["lost"]) == (30, {"no_metadata": 15})
    assert kept(tmp_path / "run") == [*range(1, 9), *range(15, 22)]
    assert {example["detail"] for example in report["examples"]["no_metadata"]} == {
        "6 samples by 00001_stats.json",
        "9 samples by 00003_stats.json",
    }


def test_without_statistics_the_size_of_the_shards_says_how_many(tmp_path: Path, pool: Path) -> None:
    """The tars of 8 + 6 + 7 samples hold 21; the fourth, of 9, is about 1.3 times a mean one of 7."""
    for shard in ("00000", "00001", "00002"):
        write_metadata(pool / "metadata" / shard, shard)
    report = select(pool, tmp_path / "run", 0.5)
    assert report["samples"] == 21 + report["lost"]["no_metadata"]
    assert report["lost"]["no_metadata"] == pytest.approx(9, abs=1)


def test_the_same_names_in_other_folders_are_other_shards(tmp_path: Path) -> None:
    for name in ("cc3m", "cc12m"):
        write_pool(tmp_path / "pool" / name, {"00000": 8})
    write_metadata(tmp_path / "pool" / "cc3m" / "metadata" / "00000", "00000")
    with pytest.raises(ClipsiftError, match=r"no_metadata 8.*cc12m/shards/00000\.tar"):
        select(tmp_path / "pool", tmp_path / "run", 0.4)
    with pytest.raises(ClipsiftError, match=r"no_metadata 8.*cc12m/shards/00000\.tar"):
        select(f"{tmp_path}/pool/{{cc3m,cc12m}}", tmp_path / "run", 0.4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_metadata_that_are_left_out_are_lost_once(tmp_path: Path, pool: Path, layout: str) -> None:
    for shard in SHARDS:
        write_metadata(pool / layout.format(shard), shard)
    path = pool / f"{layout.format('00001')}.parquet"
    path.rename(f"{path}.part")
    report = select(pool, tmp_path / "run", 0.5)
    assert report["samples"] == 24 + sum(report["lost"].values())
    assert sum(report["lost"].values()) == pytest.approx(6, abs=2)


@pytest.mark.parametrize("names", ["hashes", "chunks"])
def test_metadata_that_are_no_shards_own_tell_nothing(tmp_path: Path, pool: Path, names: str) -> None:
    """DataComp's are called by hashes; others number files that are of many shards each."""
    for shard in SHARDS:
        write_metadata(pool / "parts" / shard, shard)
    files = sorted((pool / "parts").glob("*.parquet"))
    uids = parse_uids([uid for file in files for uid in pq.read_table(file)["uid"].to_pylist()])
    shutil.rmtree(pool / "parts")
    repeated = np.arange(3000, dtype=np.uint64)  # more rows than the shard of the same name has headers for
    more = np.zeros(3000, uids.dtype)
    more["f0"], more["f1"] = 7, repeated
    uids = np.concatenate([uids, more]) if names == "chunks" else uids
    features = unit_array(np.random.default_rng(0), len(uids), 8)
    name = {"hashes": "0a1b2c3d", "chunks": "00000"}[names]
    write_feature_file(pool / "metadata", "l14", name, uids, ["c"] * len(uids), features, features)
    report = select(pool, tmp_path / "run", 0.0)
    assert (report["samples"], report["lost"]) == (len(uids), {})


def test_doctor_says_it_beforehand(tmp_path: Path, pool: Path) -> None:
    from clipsift_app.parsing import parse_run

    for shard in ("00000", "00001", "00002"):
        write_metadata(pool / "metadata" / shard, shard)
    arguments = ["--config", "configs/laptop.yaml", "--pool", str(pool), "--out", str(tmp_path / "run")]
    arguments += ["--selection.teacher", "null", "--selection.features", "l14"]
    arguments += ["--selection.steps", "[{score: clip_score, keep: 0.5}]"]
    run = parse_run(arguments, needs_eval=False)
    findings = {finding.check: finding for finding in check_files(run, Pool(str(pool)), None, 30.0)}
    assert findings["no_metadata"].status == "fail"
    assert re.search(r"1 no_metadata \(shards/00003\.tar\).*about \d+ samples lost", findings["no_metadata"].text)
    run.max_loss = 0.5
    findings = {finding.check: finding for finding in check_files(run, Pool(str(pool)), None, 30.0)}
    assert findings["no_metadata"].status == "warn"
