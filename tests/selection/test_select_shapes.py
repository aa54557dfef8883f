"""The same samples as tars, compressed tars or parquet files select the same subset, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsift_common.clip import LoadedCLIP
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.machine import Machine
from helpers.packing import pack
from helpers.parquets import TABLES, rows_of, write_parquet
from helpers.pools import write_pool
from helpers.program import REPOSITORY
from helpers.tiny_clip import named_clip
from selection.features.target import pictures
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Embedding, Selection, Teacher

MODEL = str(REPOSITORY / "configs/model/demo.json")
STEPS = [{"score": "s_cliploss", "keep": 0.5, "temperature": 0.07}]
SHARDS = {"00": 9, "01": 6}


@pytest.fixture(scope="module")
def clip() -> LoadedCLIP:
    return named_clip(MODEL)


def select(pool: Path, clip: LoadedCLIP, run: Path) -> bytes:
    selector = Selector(
        selection=Selection(Teacher(MODEL, "x"), None, STEPS, embedding=Embedding(batch_size=4, workers=0)),
        pool=Pool(str(pool)),
        out=run,
        cache=run / "cache",
        machine=Machine(accelerator="cpu", devices=1),
        teacher=lambda: clip,
        max_loss=0.0,
    )
    subset = selector.run()
    assert read_json(subset.with_suffix(".json"))["num_pool"] == sum(SHARDS.values())
    return subset.read_bytes()


def test_the_shape_of_a_pool_does_not_change_the_subset(tmp_path, clip):
    write_pool(tmp_path / "plain", SHARDS)
    write_pool(tmp_path / "packed", SHARDS)
    for tar in (tmp_path / "plain" / "shards").iterdir():
        write_parquet(tmp_path / "parquet" / f"{tar.stem}.parquet", TABLES["hub"](rows_of(tar)), row_group_size=4)
    pack(tmp_path / "packed" / "shards", ".tgz")
    plain, packed, parquet = (
        select(tmp_path / name, clip, tmp_path / f"run_{name}") for name in ("plain", "packed", "parquet")
    )
    assert plain == packed == parquet


def test_packed_shards_of_a_target_are_refused_by_name(tmp_path):
    write_pool(tmp_path, {"00": 2})
    pack(tmp_path / "shards", ".tar.gz")
    with pytest.raises(ClipsiftError, match=r"target: .*00\.tar\.gz is packed; give a folder of pictures"):
        list(pictures(tmp_path))
