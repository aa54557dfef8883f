"""Every stage of the selection on 8 and 64 ranks: they call the same collectives, share the files, get the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipsift_common.clip import LoadedCLIP
from clipsift_common.machine import Machine
from helpers.features import unit_array
from helpers.machines.fake_group import FakeGroup, machine_here
from helpers.pictures import picture
from helpers.pools import write_pool
from helpers.tiny_clip import named_clip, write_architecture
from selection.centroids import make_centroids
from selection.features import target_sets
from selection.features.files import write_feature_file
from selection.features.target_sets import embed_target
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.reshard import reshard
from selection.selector import Selector
from selection.settings import Embedding, Selection, Teacher
from selection.subset import Subset
from selection.uids import parse_uids

NUM_FILES = 18  # more than 8 ranks have one each; of 64 most have none
CPU = torch.device("cpu")
CLIPLOSS = {"score": "s_cliploss", "keep": 0.8, "temperature": 0.07, "batch_size": 4, "num_batches": 2}
NORMSIM = {"score": "normsim", "p": "inf", "keep": 0.5, "target": "target.npy"}
SELECTIONS: dict[str, dict[str, Any]] = {
    "s-CLIPLoss and NormSim": {"steps": [CLIPLOSS, NORMSIM], "per_file": True},
    "scores of files together": {"steps": [CLIPLOSS, NORMSIM]},
    "ClipCov": {"steps": [CLIPLOSS, {"method": "clipcov", "keep": 0.4, "classes": "target.npy"}], "per_file": True},
    "SemDeDup": {"steps": [{"method": "semdedup", "epsilon": 0.5, "clusters": 3}], "per_file": True},
    "VAS-D": {"steps": [{"method": "vas_d", "keep": 0.4, "steps": 3}], "per_file": True},
    "soft cap": {
        "steps": [{"method": "soft_cap_sampling", "of": {"score": "clip_score"}, "count": 90, "batch_size": 30}],
        "per_file": True,
    },
    "DataComp's filters": {
        "steps": [
            {"score": "metadata_column", "column": "ties", "keep": 0.6, "ties": "datacomp"},
            {"score": "datacomp_caption", "language": "off", "threshold": 1},
            {
                "score": "datacomp_image_based",
                "centroids": "centroids.npy",
                "target": "target.npy",
                "threshold": 1,
            },
        ],
        "per_file": True,
    },
    "sets": {
        "steps": [{"score": "clip_score", "keep": 0.5}],
        "within": "some.npy",
        "union": ["others.npy"],
        "subtract": ["few.npy"],
        "per_file": True,
    },
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Metadata and tars in as many files, targets, subsets, pictures."""
    folder = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    first = 1
    for number in range(NUM_FILES):
        count = int(rng.integers(3, 7))
        uids = parse_uids([f"{uid:x}" for uid in range(first, first + count)])
        features = [unit_array(rng, count, 8) for _ in "ab"]
        captions = [f"caption {uid}" if uid % 7 else "" for uid in range(count)]
        write_feature_file(folder / "metadata", "l14", f"{number:04d}", uids, captions, *features)
        path = folder / "metadata" / f"{number:04d}.parquet"
        pq.write_table(pq.read_table(path).append_column("ties", pa.array(np.arange(count) % 3, pa.float32())), path)
        first += count
    for name, count in (("target", 5), ("centroids", 4)):
        np.save(folder / f"{name}.npy", unit_array(rng, count, 8))
    for name, step in (("some", 2), ("others", 3), ("few", 11)):
        Subset(parse_uids([f"{uid:x}" for uid in range(1, first, step)])).save(folder / f"{name}.npy")
    write_pool(folder / "tars", {f"{number:04d}": 1 + number % 2 for number in range(NUM_FILES)})
    write_architecture(folder)
    for key in ("wds_a", "wds_b", "wds_c"):
        (folder / "sets" / key).mkdir(parents=True)
        (folder / "sets" / key / "0.jpg").write_bytes(picture(ord(key[-1])))
    return folder


@pytest.fixture(scope="module")
def clip(inputs: Path) -> LoadedCLIP:
    return named_clip(str(inputs / "tiny.json"))


def select(inputs: Path, out: Path, settings: dict[str, Any]) -> None:
    """A selection among the metadata, whose settings name files of ``inputs``."""

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: placed(part) for key, part in value.items()}
        if isinstance(value, list):
            return [placed(part) for part in value]
        return str(inputs / value) if isinstance(value, str) and value.endswith(".npy") else value

    pool = Pool.shared(str(inputs / "metadata"))
    selection = Selection(None, "l14", **placed(settings))
    Selector(selection, pool, out, out / "cache", seed=3, machine=Machine("cpu", 1)).run()


def embed_and_select(inputs: Path, clip: LoadedCLIP, out: Path) -> None:
    """A selection among the tars, on features and a target of pictures that the teacher makes."""
    pool = Pool.shared(str(inputs / "tars"))
    steps = [CLIPLOSS, NORMSIM | {"target": str(inputs / "sets" / "wds_a")}]
    selection = Selection(Teacher("tiny", "x"), None, steps, per_file=True, embedding=Embedding(2, 0))
    Selector(selection, pool, out, out / "cache", 3, machine_here(), lambda: copy.deepcopy(clip)).run()


def select_by_captions(inputs: Path, out: Path) -> None:
    """A selection among the tars that looks at no feature."""
    pool = Pool.shared(str(inputs / "tars"))
    selection = Selection(steps=[{"score": "random", "keep": 0.5}], embedding=Embedding(2, 0))
    Selector(selection, pool, out, out / "cache", machine=machine_here()).run()


def make_targets(inputs: Path, clip: LoadedCLIP, out: Path) -> None:
    embed_target("three", inputs / "sets", copy.deepcopy(clip), out / "folder", CPU)
    embed_target("three", inputs / "sets", copy.deepcopy(clip), out / "file.npy", CPU)
    pool = Pool.shared(str(inputs / "metadata"))
    make_centroids(pool, "l14", 4, out / "centroids.npy", CPU)


def copy_shards(inputs: Path, out: Path) -> None:
    index = PoolIndex.build(Pool.shared(str(inputs / "tars")), out / "cache")
    reshard(index, Subset(np.concatenate([index.uids[::2], index.uids[::3]])), out / "shards", shard_size=1)


def run(size: int, inputs: Path, out: Path, job: Callable[[Path], None]) -> FakeGroup[None]:
    group: FakeGroup[None] = FakeGroup(size, inputs)
    group.run(lambda: job(out))
    return group


def contents(folder: Path) -> dict[str, bytes]:
    """What was made, by path; without the notes of when which input was read."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "contents"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def compare(inputs: Path, name: str, job: Callable[[Path], None], sizes: Sequence[int] = (8,), **shared: Any) -> None:
    """``job`` of an output folder makes the same files on one rank and on so many; ``shared``: of ``check_files``."""
    run(1, inputs, inputs / name / "1", job)
    for size in sizes:
        group = run(size, inputs, inputs / name / str(size), job)
        assert contents(inputs / name / str(size)) == contents(inputs / name / "1")
        group.check_files(**shared)


@pytest.mark.parametrize("name", SELECTIONS)
def test_a_selection_among_metadata(name: str, inputs: Path) -> None:
    compare(inputs, name, lambda out: select(inputs, out, SELECTIONS[name]), readers=2 if "together" in name else 1)


def test_features_and_scores_of_tars(inputs: Path, clip: LoadedCLIP) -> None:
    compare(inputs, "of tars", lambda out: embed_and_select(inputs, clip, out))
    compare(inputs, "uids", lambda out: select_by_captions(inputs, out))


def test_targets(inputs: Path, clip: LoadedCLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_sets, "target_sets", lambda: {"three": ["a", "b", "c"]})
    compare(inputs, "targets", lambda out: make_targets(inputs, clip, out), own_folders="sets/")


def test_new_shards(inputs: Path) -> None:
    compare(inputs, "shards", lambda out: copy_shards(inputs, out), readers=8)  # a new shard is of any old ones


@pytest.mark.slow
def test_many_more_ranks_than_files(inputs: Path, clip: LoadedCLIP) -> None:
    compare(inputs, "64", lambda out: select(inputs, out, SELECTIONS["s-CLIPLoss and NormSim"]), sizes=(64,))
    compare(inputs, "tars on 64", lambda out: embed_and_select(inputs, clip, out), sizes=(64,))
