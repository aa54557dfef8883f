"""Features are known by the arithmetic that made them; a GPU that makes them is waited for once a shard."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsift_common.clip import LoadedCLIP
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine, make_trainer
from helpers.machines.simulated_gpu import DEVICE, SimulatedGPU, simulated
from helpers.machines.simulated_trainer import on_simulated_gpu
from helpers.pools import write_pool
from helpers.tiny_clip import wrapped_clip
from selection.features import embed as module
from selection.features.embed import embed
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Embedding, Selection, Teacher

CPU = Machine("cpu", 1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> LoadedCLIP:
    return wrapped_clip(tmp_path_factory.mktemp("model"))


@pytest.fixture
def index(tmp_path: Path) -> PoolIndex:
    return PoolIndex.build(Pool(str(write_pool(tmp_path / "pool", {"a": 5, "b": 4}))), tmp_path / "cache", 0)


def made(index: PoolIndex, clip: LoadedCLIP, folder: Path, precision: str = "32-true", name: str = "x") -> np.ndarray:
    files, _ = embed(index, clip, folder, name, CPU, 4, 0, precision)
    return np.concatenate([file.image().astype(np.float32) for file in files])


def test_parts_of_two_precisions_are_never_mixed(index: PoolIndex, clip: LoadedCLIP, tmp_path: Path) -> None:
    exact = made(index, clip, tmp_path / "exact")
    rounded = made(index, clip, tmp_path / "rounded", "bf16-mixed")
    assert 1e-4 < np.abs(exact - rounded).max() < 2e-2  # 16 bits it was, of the same model
    (tmp_path / "exact" / "b.parquet").unlink()  # a start that was stopped before its second part
    with pytest.raises(ClipsiftError, match="precision 32-true, not bf16-mixed; they are never mixed"):
        made(index, clip, tmp_path / "exact", "bf16-mixed")
    assert not (tmp_path / "exact" / "b.parquet").exists()
    np.testing.assert_array_equal(made(index, clip, tmp_path / "exact"), exact)  # the same precision resumes


def test_a_cpu_does_not_pass_bf16_off_as_fp16(index: PoolIndex, clip: LoadedCLIP, tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match="16-mixed needs a GPU"):
        made(index, clip, tmp_path / "f", "16-mixed")
    assert not (tmp_path / "f").exists()


def test_nor_those_of_two_teachers_or_names(index: PoolIndex, clip: LoadedCLIP, tmp_path: Path) -> None:
    made(index, clip, tmp_path / "f")
    with pytest.raises(ClipsiftError, match="name x, not l14"):
        made(index, clip, tmp_path / "f", name="l14")
    other = LoadedCLIP(clip.model, clip.preprocess, clip.tokenizer, "other")
    with pytest.raises(ClipsiftError, match=f"teacher {clip.identity}, not {other.identity}"):
        made(index, other, tmp_path / "f")


def test_features_without_a_note_are_an_earlier_releases(index: PoolIndex, clip: LoadedCLIP, tmp_path: Path) -> None:
    """It wrote float32's, and of JPEGs that end early."""
    made(index, clip, tmp_path / "f")
    (tmp_path / "f" / ".embedding.json").unlink()
    with pytest.raises(ClipsiftError, match="precision 32-true, not bf16-mixed, version of decoding 1, not 2"):
        made(index, clip, tmp_path / "f", "bf16-mixed")
    with pytest.raises(ClipsiftError, match="holds features of version of decoding 1, not 2; they are never mixed"):
        made(index, clip, tmp_path / "f")


def test_a_selection_of_another_precision_is_another_one(index: PoolIndex, clip: LoadedCLIP, tmp_path: Path) -> None:
    def select(out: str, precision: Any) -> dict[str, Any]:
        how = Embedding(4, 0, precision)
        selection = Selection(Teacher("m", "x"), None, [{"score": "clip_score", "keep": 0.5}], embedding=how)
        pool = Pool(str(tmp_path / "pool"))
        path = Selector(selection, pool, tmp_path / out, tmp_path / "cache", 0, CPU, lambda: clip).run()
        return json.loads(path.with_suffix(".json").read_text())

    exact, rounded = select("exact", "32-true"), select("rounded", "bf16-mixed")
    assert exact["parents"]["features"] != rounded["parents"]["features"]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    with pytest.raises(ClipsiftError):
        select("exact", "bf16-mixed")


def test_a_gpu_gets_batches_ahead_and_is_waited_for_once_a_shard(
    index: PoolIndex, clip: LoadedCLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = made(index, clip, tmp_path / "cpu")
    monkeypatch.setattr(module, "device_of", lambda machine: DEVICE)
    monkeypatch.setattr(
        module, "make_lone_trainer", lambda machine, **how: make_trainer(machine, **how, **on_simulated_gpu())
    )
    waits, write = [], module.write_feature_file
    with SimulatedGPU() as gpu:
        monkeypatch.setattr(
            module, "write_feature_file", lambda *what: (waits.append(len(gpu.synchronisations)), write(*what))
        )
        there = replace(clip, model=simulated(copy.deepcopy(clip.model)))
        found = made(index, there, tmp_path / "gpu")
    np.testing.assert_allclose(found, exact, atol=1e-3)  # fp16 in the files
    assert gpu.streams.races == []
    copies = [place for place, event in enumerate(gpu.streams.log) if event == ("_to_copy", "side")]
    work = [place for place, event in enumerate(gpu.streams.log) if event == ("convolution", "main")]
    assert (len(copies), len(work)) == (6, 3)  # pixels and tokens of three batches: 4 and 1 pairs, 4 pairs
    assert all(copies[2 * number + 3] < work[number] for number in range(2))  # the next batch's before this one's work
    assert waits == [2, 4]  # each shard's towers
