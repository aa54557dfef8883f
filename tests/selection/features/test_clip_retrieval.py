"""clip-retrieval's folders of features select what the same features in DataComp's layout select."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from helpers.features import unit_array
from selection.features import clip_retrieval
from selection.features.files import FeatureFile
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection

STEPS = [{"score": "s_cliploss", "keep": 0.5, "temperature": 0.05}, {"score": "normsim", "target": "self", "keep": 0.2}]


def rows(part: int, num: int = 40) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(part)
    uids = [f"{part * 1000 + row + 1:032x}" for row in range(num)]
    return uids, unit_array(rng, num, 16).astype(np.float16), unit_array(rng, num, 16).astype(np.float16)


def write_clip_retrieval(folder: Path, parts: int = 2) -> Path:
    """As ``clip-retrieval inference --enable_metadata true`` leaves it."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        uids, image, text = rows(part)
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", image)
        np.save(folder / "text_emb" / f"text_emb_{part}.npy", text)
        table = {"image_path": [f"{row:09d}" for row in range(len(uids))], "caption": ["c"] * len(uids), "uid": uids}
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{part}.parquet")
    return folder


def write_datacomp(folder: Path, parts: int = 2) -> Path:
    (folder / "metadata").mkdir(parents=True)
    for part in range(parts):
        uids, image, text = rows(part)
        pq.write_table(pa.table({"uid": uids}), folder / "metadata" / f"metadata_{part}.parquet")
        np.savez(folder / "metadata" / f"metadata_{part}.npz", l14_img=image, l14_txt=text)
    return folder


def select(pool: Path, features: str, run: Path, cache: str = "cache") -> bytes:
    np.save(run.parent / "self.npy", rows(0)[1][:5].astype(np.float32))
    steps = [step | ({"target": str(run.parent / "self.npy")} if "target" in step else {}) for step in STEPS]
    machine = Machine(accelerator="cpu", devices=1)
    settings = Selection(None, features, steps)
    return Selector(settings, Pool(str(pool)), run, run.parent / cache, machine=machine).run().read_bytes()


@pytest.mark.parametrize("mapped_from", [0, 1 << 22])
def test_the_same_subset_as_from_datacomps_layout(tmp_path, monkeypatch, mapped_from):
    monkeypatch.setattr(clip_retrieval, "MAPPED_FROM", mapped_from)
    ours = select(write_clip_retrieval(tmp_path / "a"), "clip-retrieval", tmp_path / "run_a")
    theirs = select(write_datacomp(tmp_path / "b"), "l14", tmp_path / "run_b")
    assert ours == theirs
    assert len(np.load(tmp_path / "run_a" / "selection" / "subset.npy")) == 16  # 20 % of 80


def test_features_that_changed_in_place_are_scored_anew(tmp_path):
    pool = write_clip_retrieval(tmp_path / "pool")
    before = select(pool, "clip-retrieval", tmp_path / "run")
    path = pool / "text_emb" / "text_emb_1.npy"
    about = path.stat()
    np.save(path, rows(7)[2])
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert path.stat().st_size == about.st_size
    with pytest.raises(ClipsiftError, match="the pool's features"):
        select(pool, "clip-retrieval", tmp_path / "run")
    after = select(pool, "clip-retrieval", tmp_path / "again")
    assert after != before
    assert after == select(pool, "clip-retrieval", tmp_path / "afresh", "another_cache")


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"img_emb_0\.npy: features cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), r"img_emb_0\.npy: features cannot be read"),
        (lambda path: path.write_bytes(b"<html>"), r"img_emb_0\.npy: features cannot be read"),
        (lambda path: np.save(path, np.zeros((39, 16), np.float16)), r"has 39 rows, its parquet 40"),
        (lambda path: np.save(path, np.zeros(40, np.float16)), r"is 1-D float16"),
        (lambda path: np.save(path, np.array([Planted()], object)), r"img_emb_0\.npy: features cannot be read"),
    ],
)
@pytest.mark.parametrize("mapped_from", [0, 1 << 22])
def test_damaged_arrays_are_named_and_nothing_is_unpickled(tmp_path, monkeypatch, spoil, message, mapped_from):
    monkeypatch.setattr(clip_retrieval, "MAPPED_FROM", mapped_from)
    monkeypatch.chdir(tmp_path)
    pool = write_clip_retrieval(tmp_path / "pool", 1)
    spoil(pool / "img_emb" / "img_emb_0.npy")
    with pytest.raises(ClipsiftError, match=message):
        FeatureFile(str(pool / "metadata" / "metadata_0.parquet"), "clip-retrieval").image()
    assert not (tmp_path / "planted").exists()


def test_another_layout_is_said_to_be_another(tmp_path):
    with pytest.raises(
        ClipsiftError, match=r"metadata_0x\.parquet: is not of clip-retrieval's output \(metadata/metad"
    ):
        FeatureFile(str(tmp_path / "metadata" / "metadata_0x.parquet"), "clip-retrieval").text()
    pool = write_clip_retrieval(tmp_path / "pool", 1)
    metadata = pool / "metadata" / "metadata_0.parquet"
    pq.write_table(pq.read_table(metadata).drop_columns(["uid"]), metadata)
    with pytest.raises(ClipsiftError, match=r"has no column uid \(it has image_path, caption\)"):
        select(pool, "clip-retrieval", tmp_path / "run")
