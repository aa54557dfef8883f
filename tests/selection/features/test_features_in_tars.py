"""Features in tars select what the same features in DataComp's layout select, joined by key; nothing is unpickled."""

from __future__ import annotations

import io
import pickle
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.machine import Machine
from helpers.features import unit_array
from helpers.pools import sample
from helpers.tars import Members, write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import format_uids

SHARDS = {"00000": range(1, 25), "00001": range(25, 41)}  # the uids in each
IMAGE = dict(enumerate(unit_array(np.random.default_rng(0), 40, 16).astype(np.float16), 1))
TEXT = dict(enumerate(unit_array(np.random.default_rng(1), 40, 16).astype(np.float16), 1))
STEPS = [{"score": "clip_score", "keep": 0.5}]


def npy(values: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **how)
    return buffer.getvalue()


def key(uid: int) -> str:
    return f"k{uid:05d}"


def pictures(shard: str) -> Members:
    return [member for uid in SHARDS[shard] for member in sample(key(uid), uid)]


def features(uids: Sequence[int], image: str = "img_emb.npy", text: str = "text_emb.npy") -> Members:
    rows = [[(f"{key(uid)}.{image}", npy(IMAGE[uid])), (f"{key(uid)}.{text}", npy(TEXT[uid]))] for uid in uids]
    random.Random(0).shuffle(rows)  # never by position
    return [member for row in rows for member in row]


def write_shards(pool: Path) -> None:
    for shard in SHARDS:
        write_tar(pool / "shards" / f"{shard}.tar", pictures(shard))


def select(pool: Path, run: Path, features: str = "webdataset", max_loss: float = 0.0, **step: Any) -> list[int]:
    machine = Machine(accelerator="cpu", devices=1)
    settings = Selection(None, features, [STEPS[0] | step])
    Selector(settings, Pool(str(pool)), run, run / "cache", machine=machine, max_loss=max_loss).run()
    return [int(uid, 16) for uid in format_uids(Subset.load(run / "selection" / "subset.npy").uids)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The better half by the cosine of numpy."""
    cosine = {uid: float(IMAGE[uid].astype(np.float64) @ TEXT[uid].astype(np.float64)) for uid in IMAGE}
    return sorted(sorted(cosine, key=lambda uid: -cosine[uid])[:20])


def beside(pool: Path, name: Callable[[str], str], **how: str) -> None:
    write_shards(pool)
    for shard, uids in SHARDS.items():
        write_tar(pool / name(shard), features(uids, **how))


@pytest.mark.parametrize("name", ["embeddings/{}.tar", "shards/{}_emb.tar", "shards/{}.features.tar", "x/l14-{}.tar"])
def test_tars_beside_the_shards(tmp_path: Path, expected: list[int], name: str) -> None:
    beside(tmp_path / "pool", name.format)
    assert select(tmp_path / "pool", tmp_path / "run") == expected
    report = read_json(tmp_path / "run" / "selection" / "data_report.json")
    assert (report["samples"], report["lost"]) == (40, {})


def test_a_tar_for_each_tower(tmp_path: Path, expected: list[int]) -> None:
    write_shards(tmp_path / "pool")
    for tower, rows in (("img_emb", IMAGE), ("text_emb", TEXT)):
        for shard, uids in SHARDS.items():
            members = [(f"{key(uid)}.npy", npy(rows[uid])) for uid in reversed(uids)]
            write_tar(tmp_path / "pool" / tower / f"{shard}.tar", members)
    assert select(tmp_path / "pool", tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("image", "text"), [("img_emb.npy", "txt_emb.npy"), ("npy", "text.npy"), ("image.NPY", "caption.npy")]
)
def test_features_among_the_pictures(tmp_path: Path, expected: list[int], image: str, text: str) -> None:
    for shard, uids in SHARDS.items():
        write_tar(tmp_path / "pool" / f"{shard}.tar", [*pictures(shard), *features(uids, image, text)])
    assert select(tmp_path / "pool", tmp_path / "run") == expected


def test_keys_may_be_uids(tmp_path: Path, expected: list[int]) -> None:
    write_shards(tmp_path / "pool")
    for shard, uids in SHARDS.items():
        rows = [
            (f"{uid:032x}.{tower}.npy", npy(of[uid])) for uid in uids for tower, of in (("img", IMAGE), ("txt", TEXT))
        ]
        write_tar(tmp_path / "pool" / "emb" / f"{shard}.tar", rows)
    assert select(tmp_path / "pool", tmp_path / "run") == expected


def test_the_same_subset_as_from_datacomps_layout(tmp_path: Path) -> None:
    beside(tmp_path / "tars", "emb/{}.tar".format)
    (tmp_path / "npz").mkdir()
    for shard, uids in SHARDS.items():
        pq.write_table(pa.table({"uid": [f"{uid:032x}" for uid in uids]}), tmp_path / "npz" / f"{shard}.parquet")
        arrays = {name: np.stack([rows[uid] for uid in uids]) for name, rows in (("a_img", IMAGE), ("a_txt", TEXT))}
        np.savez(tmp_path / "npz" / f"{shard}.npz", **arrays)
    step = {"score": "s_cliploss", "temperature": 0.05}
    ours = select(tmp_path / "tars", tmp_path / "run_a", **step)
    assert ours == select(tmp_path / "npz", tmp_path / "run_b", "a", **step)


def test_only_the_towers_that_a_recipe_looks_at_are_needed(tmp_path: Path) -> None:
    write_shards(tmp_path / "pool")
    for shard, uids in SHARDS.items():
        write_tar(tmp_path / "pool" / "emb" / f"{shard}.tar", [(f"{key(uid)}.npy", npy(IMAGE[uid])) for uid in uids])
    np.save(tmp_path / "target.npy", np.stack([IMAGE[uid] for uid in range(1, 6)]).astype(np.float32))
    step = {"score": "normsim", "target": str(tmp_path / "target.npy"), "p": "inf", "keep": 0.125}
    assert select(tmp_path / "pool", tmp_path / "run", **step) == [1, 2, 3, 4, 5]
    with pytest.raises(ClipsiftError, match=r"40 of 40 samples lost .*missing_features 40.*no text features"):
        select(tmp_path / "pool", tmp_path / "other")


BAD = {
    "absent": None,
    "pickled": npy(np.array([{"a": 1}], object), allow_pickle=True),
    "a pickle": pickle.dumps([1.0] * 16),
    "cut": npy(IMAGE[3])[:-2],
    "longer": npy(IMAGE[3]) + b"xx",
    "a picture": b"\xff\xd8\xff",
    "empty": b"",
    "integers": npy(np.arange(16)),
    "two rows": npy(np.ones((2, 16), np.float16)),
    "a scalar": npy(np.float32(1)),
    "of a terabyte": npy(IMAGE[3]).replace(b"(16,)", b"(9" + b"9" * 11 + b",)"),
}


@pytest.mark.parametrize("bad", BAD)
def test_rows_without_usable_features_are_named(tmp_path: Path, bad: str) -> None:
    beside(tmp_path / "pool", "emb/{}.tar".format)
    members = [
        (name, BAD[bad] if name == f"{key(3)}.text_emb.npy" else data) for name, data in features(SHARDS["00000"])
    ]
    write_tar(tmp_path / "pool" / "emb" / "00000.tar", [(name, data) for name, data in members if data is not None])
    with pytest.raises(ClipsiftError, match=r"1 of 40 samples lost \(2\.50%; missing_features 1\).*00000 k00003 \("):
        select(tmp_path / "pool", tmp_path / "run")
    assert 3 not in select(tmp_path / "pool", tmp_path / "other", max_loss=0.1, keep=1.0)
    report = read_json(tmp_path / "other" / "selection" / "data_report.json")
    assert (report["samples"], report["lost"]) == (40, {"missing_features": 1})


def test_a_tar_that_is_cut_loses_the_rows_behind(tmp_path: Path) -> None:
    beside(tmp_path / "pool", "emb/{}.tar".format)
    path = tmp_path / "pool" / "emb" / "00001.tar"
    with tarfile.open(path) as tar:
        cut = next(member.offset for number, member in enumerate(tar) if number == 20)  # behind 10 keys of 16
    path.write_bytes(path.read_bytes()[: cut + 700])
    assert len(select(tmp_path / "pool", tmp_path / "run", max_loss=0.2, keep=1.0)) == 34
    report = read_json(tmp_path / "run" / "selection" / "data_report.json")
    assert (report["samples"], report["lost"]) == (40, {"missing_features": 6})


@pytest.mark.parametrize("width", [15, 17, 1])
def test_features_of_another_width_are_refused(tmp_path: Path, width: int) -> None:
    beside(tmp_path / "pool", "emb/{}.tar".format)
    members = [m for m in features(SHARDS["00000"]) if m[0] != f"{key(3)}.img_emb.npy"]
    odd = (f"{key(3)}.img_emb.npy", npy(np.ones(width, np.float16)))
    write_tar(tmp_path / "pool" / "emb" / "00000.tar", [*members, odd])
    with pytest.raises(ClipsiftError, match=r"emb/00000\.tar: image features differ in width \(k00003\.img_emb\.npy"):
        select(tmp_path / "pool", tmp_path / "run")


def test_a_choice_between_features_is_not_made_silently(tmp_path: Path) -> None:
    beside(tmp_path / "pool", "a/{}.tar".format)
    beside(tmp_path / "pool", "b/{}.tar".format)
    with pytest.raises(ClipsiftError, match=r"is not the only (image|text) features of its sample; leave one out"):
        select(tmp_path / "pool", tmp_path / "run")


def test_a_tar_goes_to_the_shard_of_its_own_folder(tmp_path: Path) -> None:
    for name, shard in (("a", "00000"), ("b", "00001")):
        write_tar(tmp_path / "pool" / name / "0.tar", pictures(shard))
        write_tar(tmp_path / "pool" / name / "0_emb.tar", features(SHARDS[shard]))
    assert len(select(tmp_path / "pool", tmp_path / "run", keep=1.0)) == 40
    write_tar(tmp_path / "pool" / "0_emb.tar", features(SHARDS["00000"]))
    with pytest.raises(ClipsiftError, match=r"pool/0_emb\.tar: may hold features of .*a/0\.tar and .*b/0\.tar"):
        select(tmp_path / "pool", tmp_path / "other", keep=1.0)


def test_features_that_changed_are_read_anew(tmp_path: Path) -> None:
    beside(tmp_path / "pool", "emb/{}.tar".format)
    select(tmp_path / "pool", tmp_path / "run")
    swapped = features(SHARDS["00000"], "text_emb.npy", "img_emb.npy")
    members = [(name, npy(-TEXT[1]) if name == f"{key(1)}.text_emb.npy" else data) for name, data in swapped]
    write_tar(tmp_path / "pool" / "emb" / "00000.tar", members)
    with pytest.raises(ClipsiftError, match="holds a selection made with other settings"):
        select(tmp_path / "pool", tmp_path / "run")


def test_tars_of_features_are_no_losses_of_a_pool(tmp_path: Path) -> None:
    beside(tmp_path / "pool", "emb/{}.tar".format)
    index = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache", max_loss=0.0)
    assert (len(index), index.report.samples, index.report.num_lost) == (40, 40, 0)
    assert index.report.files["feature_tars"] == 2


def test_pictures_that_are_missing_beside_features_are_lost_as_ever(tmp_path: Path) -> None:
    write_shards(tmp_path / "pool")
    write_tar(tmp_path / "pool" / "more.tar", [*sample("a", 99), *features([1, 2])])
    index = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache")
    assert dict(index.report.lost) == {"missing_image": 2}
