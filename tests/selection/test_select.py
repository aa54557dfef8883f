from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsift_common.clip import LoadedCLIP
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.machine import Machine
from helpers.pictures import picture
from helpers.pools import sample, write_pool
from helpers.program import REPOSITORY
from helpers.tars import write_tar
from helpers.tiny_clip import named_clip
from selection.features.files import FeatureFile, write_feature_file
from selection.pool.location import Pool
from selection.scoring.columns import make_blocks
from selection.selector import Selector
from selection.settings import Embedding, Selection, Teacher
from selection.subset import Subset
from selection.uids import format_uids, parse_uids

MODEL = str(REPOSITORY / "configs/model/demo.json")
STEPS: list[dict[str, Any]] = [
    {"score": "s_cliploss", "keep": 0.6, "temperature": 0.07},
    {"score": "normsim", "target": "trusted", "p": "inf", "keep": 0.4},
]


@pytest.fixture(scope="module")
def clip() -> LoadedCLIP:
    return named_clip(MODEL)


def selector(tmp_path: Path, clip: LoadedCLIP, steps: list[dict[str, Any]] = STEPS, **changes: Any) -> Selector:
    values: dict[str, Any] = {
        "selection": Selection(Teacher(MODEL, "x"), None, steps, embedding=Embedding(batch_size=4, workers=0)),
        "pool": Pool(str(tmp_path / "pool")),
        "out": tmp_path / "run",
        "cache": tmp_path / "run" / "cache",
        "machine": Machine(accelerator="cpu", devices=1),
        "teacher": lambda: clip,
        "trusted": str(tmp_path / "trusted"),
        "max_loss": 0.2,
    }
    return Selector(**values | changes)


@pytest.fixture
def pools(tmp_path: Path) -> Path:
    write_pool(tmp_path / "pool", {"0": 7, "1": 5, "2": 8})
    write_pool(tmp_path / "trusted", {"0": 3}, start=100)
    return tmp_path


def test_a_pool_of_tars_becomes_a_subset_with_its_history(pools: Path, clip: LoadedCLIP) -> None:
    path = selector(pools, clip).run()
    about = read_json(path.with_suffix(".json"))
    assert [step["num_kept"] for step in about["steps"]] == [12, 8]
    assert (about["num_pool"], about["num_kept"]) == (20, 8)
    table = pq.read_table(pools / "run" / "selection" / "scores" / "1.parquet")
    assert table.column_names == ["uid", "s_cliploss", "normsim"]
    assert [int(uid, 16) for uid in table["uid"].to_pylist()] == [8, 9, 10, 11, 12]
    assert table["normsim"].type == pa.float32()
    report = read_json(pools / "run" / "selection" / "data_report.json")
    assert (report["samples"], report["num_lost"]) == (20, 0)


def test_a_second_start_skips_and_a_changed_one_is_refused(pools: Path, clip: LoadedCLIP) -> None:
    path = selector(pools, clip).run()
    before = path.stat().st_mtime_ns
    assert selector(pools, clip).run().stat().st_mtime_ns == before
    with pytest.raises(ClipsiftError, match="made with other settings"):
        selector(pools, clip, [STEPS[0]]).run()


@pytest.mark.parametrize("lost", ["subset.json", "subset.npy", "scores/1.parquet", "cache"])
def test_what_an_interruption_left_out_is_made_again_alike(pools: Path, clip: LoadedCLIP, lost: str) -> None:
    path = selector(pools, clip).run()
    expected = path.read_bytes(), (pools / "run/selection/scores/1.parquet").read_bytes()
    path.with_suffix(".json").unlink()
    if lost == "cache":
        shutil.rmtree(pools / "run" / "cache")
    else:
        (pools / "run" / "selection" / lost).unlink(missing_ok=True)
    selector(pools, clip).run()
    assert (path.read_bytes(), (pools / "run/selection/scores/1.parquet").read_bytes()) == expected


def test_scores_do_not_depend_on_how_the_pool_is_cut(pools: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    uneven = selector(pools, clip).run()
    write_pool(tmp_path / "whole", {"all": 20})
    one = selector(tmp_path, clip, pool=Pool(str(tmp_path / "whole")), out=tmp_path / "other", cache=tmp_path / "c")
    assert Subset.load(one.run()) == Subset.load(uneven)
    alone = selector(pools, clip, out=tmp_path / "alone")
    alone.selection = replace(alone.selection, per_file=True)
    parts = (
        [pq.read_table(tmp_path / name / "selection/scores/1.parquet") for name in ("run", "alone")]
        if alone.run()
        else []
    )
    lower, higher = (part["s_cliploss"].to_numpy() for part in parts)
    assert (higher > lower).all()  # a file of 5 has an easier normaliser than a pool of 20


def test_broken_pictures_are_counted_and_left_out(tmp_path: Path, clip: LoadedCLIP) -> None:
    write_pool(tmp_path / "trusted", {"0": 3}, start=100)
    members = [member for number in range(1, 21) for member in sample(f"{number}", number)]
    members += sample("half", 21, jpg=picture(21)[:300])
    members += sample("closed", 22, jpg=picture(22)[:-200] + b"\xff\xd9")  # PIL makes the rest grey
    members += sample("junk", 23, jpg=picture(23)[:-2] + bytes(40) + b"\xff\xd9")
    write_tar(tmp_path / "pool" / "0.tar", members)
    path = selector(tmp_path, clip).run()
    report = read_json(tmp_path / "run" / "selection" / "data_report.json")
    assert report["lost"] == {"truncated_image": 2}
    assert report["noted"] == {"decoder_remark": 1}
    assert report["samples"] == 23
    assert [example["key"] for example in report["examples"]["truncated_image"]] == ["half", "closed"]
    assert report["examples"]["decoder_remark"][0]["key"] == "junk"
    assert read_json(path.with_suffix(".json"))["num_pool"] == 21
    with pytest.raises(ClipsiftError, match="above max_loss"):
        selector(tmp_path, clip, out=tmp_path / "strict", max_loss=0.01).run()


def test_recipes_without_features_need_no_teacher(pools: Path, clip: LoadedCLIP) -> None:
    chosen = selector(pools, clip, [{"score": "random", "keep": 0.5}], teacher=None)
    chosen.selection = replace(chosen.selection, teacher=None)
    assert len(Subset.load(chosen.run())) == 10
    everything = selector(pools, clip, [], out=pools / "all", teacher=None)
    assert len(Subset.load(everything.run())) == 20


@pytest.mark.parametrize(
    ("selection", "trusted", "words"),
    [
        (Selection(steps=STEPS), "x", "these scores need a teacher"),
        (Selection(Teacher(MODEL, "x"), "l14", STEPS), "x", "teacher and features contradict"),
        (Selection(Teacher(MODEL, "x"), None, STEPS), None, "target trusted needs --trusted"),
    ],
)
def test_contradictory_settings_are_refused(selection: Selection, trusted: str | None, words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        selection.check(trusted)


def write_metadata(folder: Path, stem: str, first: int, count: int, dim: int = 4, **changes: Any) -> None:
    rng = np.random.default_rng(first)
    uids = parse_uids([f"{number:x}" for number in range(first, first + count)])
    image, text = (rng.standard_normal((count, dim)) for _ in range(2))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    for row, value in changes.get("rows", {}).items():
        image[row] = value
    write_feature_file(folder, "l14", stem, uids, [""] * count, image, text)


def choose(folder: Path, **changes: Any) -> Subset:
    chosen = Selector(
        Selection(None, "l14", [{"score": "clip_score", "keep": 0.5}]),
        Pool(str(folder)),
        folder.parent / "run",
        folder.parent / "cache",
        machine=Machine(accelerator="cpu", devices=1),
        **changes,
    )
    return Subset.load(chosen.run())


def test_rows_without_usable_features_are_counted_and_never_kept(tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", "a", 1, 50)
    write_metadata(tmp_path / "m", "b", 51, 50, rows={3: np.nan, 4: np.inf, 5: 0.0})
    subset = choose(tmp_path / "m", max_loss=0.05)
    assert len(subset) == 50
    assert not {54, 55, 56} & {int(uid, 16) for uid in format_uids(subset.uids)}
    report = read_json(tmp_path / "run" / "selection" / "data_report.json")
    assert report["lost"] == {"bad_features": 3}
    assert report["examples"]["bad_features"][0] == {"shard": "b", "key": "row 3", "detail": "not finite or all zero"}


def test_rows_of_another_length_are_warned_of_and_normalised_on_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = {3: np.array([0.0, 3, 0, 0]), 9: np.array([0.0, 0, 0, 0.2])}
    write_metadata(tmp_path / "long" / "m", "a", 1, 50, rows=long)
    write_metadata(tmp_path / "unit" / "m", "a", 1, 50, rows={row: v / np.linalg.norm(v) for row, v in long.items()})
    scores = {}
    for name, normalise in (("long", False), ("long", True), ("unit", False)):
        caplog.clear()
        steps = [{"score": "clip_score", "keep": 0.5}, {"method": "vas_d", "keep": 0.2, "steps": 3}]
        selection = Selection(None, "l14", steps, normalise=normalise)
        out, machine = tmp_path / name / str(normalise), Machine(accelerator="cpu", devices=1)
        subset = Subset.load(Selector(selection, Pool(str(tmp_path / name / "m")), out, out, machine=machine).run())
        column = pq.read_table(out / "selection/scores/a.parquet")["clip_score"].to_numpy()
        scores[name, normalise] = (column, format_uids(subset.uids))
        warned = "a.parquet row 3 (image features are not of unit length in 2 rows" in caplog.text
        assert warned == (name == "long" and not normalise)
    np.testing.assert_allclose(scores["long", True][0], scores["unit", False][0], atol=1e-3)
    assert scores["long", True][1] == scores["unit", False][1]
    assert np.abs(scores["long", False][0] - scores["unit", False][0]).max() > 0.1


def test_rows_of_another_length_in_many_files_are_one_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(12):  # a block each
        rows = {3: np.array([0.0, 3, 0, 0]), 9: np.array([0.0, 0, 0, 0.2])}
        write_metadata(tmp_path / "m", f"f{number:02d}", 1 + 20 * number, 20, rows=rows)
    selection = Selection(None, "l14", [{"score": "clip_score", "keep": 0.5}], per_file=True)
    machine = Machine(accelerator="cpu", devices=1)
    Selector(selection, Pool(str(tmp_path / "m")), tmp_path / "run", tmp_path / "run", machine=machine).run()
    report = read_json(tmp_path / "run" / "selection" / "data_report.json")
    assert report["noted"] == {"not_unit_length": 24}
    assert caplog.text.count("not of unit length") == 5
    assert caplog.text.count("further ones are only counted") == 1


def test_repeated_uids_are_counted_within_a_file_and_warned_of_across(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_metadata(tmp_path / "m", "a", 1, 30)
    table = pq.read_table(tmp_path / "m" / "a.parquet")
    uids = table["uid"].to_pylist()
    uids[20] = uids[4]
    pq.write_table(table.set_column(0, "uid", pa.array(uids)), tmp_path / "m" / "a.parquet")
    write_metadata(tmp_path / "m", "b", 30, 30)  # its first uid is the last of a
    write_metadata(tmp_path / "m", "c", 90, 0)
    everything = Selection(None, "l14", [{"score": "clip_score", "keep": 1.0}])
    machine = Machine(accelerator="cpu", devices=1)
    selector = Selector(everything, Pool(str(tmp_path / "m")), tmp_path / "run", tmp_path / "c", 0, machine, max_loss=1)
    subset = Subset.load(selector.run())
    report = read_json(tmp_path / "run" / "selection" / "data_report.json")
    assert report["lost"] == {"duplicate_uid": 1}
    assert report["examples"]["duplicate_uid"][0]["key"] == "row 20"
    assert (len(subset), len(subset.unique)) == (59, 58)
    assert "1 kept pairs have the uid of another one" in caplog.text


def test_a_target_of_another_dimension_is_refused(tmp_path: Path) -> None:
    write_metadata(tmp_path / "m", "a", 1, 9)
    np.save(tmp_path / "t.npy", np.ones((5, 3), np.float32))
    steps: list[dict[str, Any]] = [{"score": "normsim", "target": str(tmp_path / "t.npy"), "keep": 0.5}]
    machine = Machine(accelerator="cpu", devices=1)
    selector = Selector(Selection(None, "l14", steps), Pool(str(tmp_path / "m")), tmp_path, tmp_path, machine=machine)
    with pytest.raises(ClipsiftError, match=r"a\.parquet: normsim: target .*t\.npy has 3 dimensions, features have 4"):
        selector.run()
    np.save(tmp_path / "t.npy", np.ones((0, 4), np.float32))
    selector = Selector(Selection(None, "l14", steps), Pool(str(tmp_path / "m")), tmp_path, tmp_path, machine=machine)
    with pytest.raises(ClipsiftError, match=r"t\.npy has no features"):
        selector.run()


def damage(kind: str, folder: Path) -> None:
    if kind == "length":
        np.savez(folder / "a.npz", l14_img=np.ones((3, 4), np.float16), l14_txt=np.ones((3, 4), np.float16))
    elif kind == "array":
        np.savez(folder / "a.npz", b32_img=np.ones((9, 4), np.float16))
    elif kind == "dtype":
        np.savez(folder / "a.npz", l14_img=np.ones((9, 4), np.int64), l14_txt=np.ones((9, 4), np.int64))
    elif kind == "npz":
        (folder / "a.npz").write_bytes(b"no zip")
    elif kind == "parquet":
        (folder / "a.parquet").write_bytes(b"no parquet")
    elif kind == "uid":
        pq.write_table(pa.table({"uid": ["f" * 33] * 9}), folder / "a.parquet")
    elif kind == "column":
        pq.write_table(pa.table({"id": ["f"] * 9}), folder / "a.parquet")
    elif kind == "width":
        write_metadata(folder, "b", 20, 5, dim=3)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("length", r"a\.npz: l14_img has 3 rows, its parquet 9"),
        ("array", r"a\.npz: has no array l14_img"),
        ("dtype", r"a\.npz: l14_img is 2-D int64"),
        ("npz", r"a\.npz: features cannot be read"),
        ("parquet", r"a\.parquet: is no parquet file"),
        ("uid", r"a\.parquet: row 0: uid 'f+' is not 32 hex"),
        ("column", r"a\.parquet: has no column uid"),
        ("width", r"differ in width"),
    ],
)
def test_damaged_metadata_is_refused_by_name(tmp_path: Path, kind: str, words: str) -> None:
    write_metadata(tmp_path / "m", "a", 1, 9)
    damage(kind, tmp_path / "m")
    with pytest.raises(ClipsiftError, match=words):
        choose(tmp_path / "m")
    assert not (tmp_path / "run" / "selection" / "subset.npy").exists()


def test_small_files_are_scored_together_and_large_ones_alone(tmp_path: Path) -> None:
    for stem, count in (("a", 30), ("b", 5), ("c", 5), ("d", 25), ("e", 4)):
        write_metadata(tmp_path, stem, 1, count)
    files, sizes = [FeatureFile(str(tmp_path / f"{stem}.parquet"), "l14") for stem in "abcde"], (30, 5, 5, 25, 4)
    blocks = [[file.stem for file in block] for block in make_blocks(files, sizes, 20)]
    assert blocks == [["a"], ["b", "c", "d", "e"]]
    assert len(make_blocks(files, sizes, 0)) == 5
    assert [len(block) for block in make_blocks(files, sizes, 1000)] == [5]


def test_metadata_in_sub_folders_is_used_and_what_has_no_parquet_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = tmp_path / "pool"
    write_metadata(pool / "metadata" / "part0", "a", 1, 30)
    write_metadata(pool / "metadata" / "part1" / "deep", "a", 100, 30)
    write_metadata(pool, "b", 200, 30)
    for name in ("metadata/._a.parquet", "metadata/part0/._a.npz", "metadata/part0/.a.parquet.crc"):
        (pool / name).write_bytes(b"\0" * 4096)
    selection = Selection(None, "l14", [{"score": "clip_score", "keep": 1.0}])
    machine = Machine(accelerator="cpu", devices=1)

    def run(name: str, max_loss: float) -> dict[str, Any]:
        out = tmp_path / name
        Selector(selection, Pool(str(pool)), out, tmp_path / "c", 0, machine, max_loss=max_loss).run()
        return read_json(out / "selection" / "data_report.json")

    report = run("whole", 0.0)
    assert (report["samples"], report["lost"], report["ignored"]) == (90, {}, {"hidden": 3})
    assert len(Subset.load(tmp_path / "whole" / "selection" / "subset.npy")) == 90
    (pool / "metadata" / "part0" / "a.parquet").rename(pool / "metadata" / "part0" / "a.parquet.part")
    report = run("lossy", 0.4)
    assert report["samples"] == 90
    assert report["lost"] == {"features_alone": 30}
    with pytest.raises(ClipsiftError, match=r"30 of 90 samples lost \(33.33%; features_alone 30\)"):
        run("strict", 0.3)
    assert not (tmp_path / "strict" / "selection" / "scores").exists()  # it ends before anything is scored


def test_parquets_of_other_kinds_are_no_metadata(tmp_path: Path) -> None:
    write_metadata(tmp_path, "a", 1, 9)
    for name in ("history", "deep/er/notes"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"step": [1, 2]}), tmp_path / f"{name}.parquet")
    pq.write_table(pa.table({"uid": ["1"]}), tmp_path / "plain.parquet")
    pool = Pool(str(tmp_path))
    assert [file.name for file in pool.metadata] == ["a", "plain"]
    assert {left.path for left in pool.left_out} == {
        f"{tmp_path}/{name}.parquet" for name in ("history", "deep/er/notes")
    }


def test_a_pool_of_which_too_much_is_left_out_costs_no_teacher(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", {"0": 10, "1": 10})
    shutil.copy(tmp_path / "pool/shards/1.tar", tmp_path / "pool/shards/2.tar.part")
    steps = [{"score": "clip_score", "keep": 0.5}]
    selector = Selector(
        Selection(Teacher("tiny", pretrained="weights.pt"), steps=steps),
        Pool(str(tmp_path / "pool")),
        tmp_path / "run",
        tmp_path / "cache",
        teacher=lambda: pytest.fail("the teacher is made"),
    )
    with pytest.raises(ClipsiftError, match=r"10 of 30 samples lost \(33.33%; partial_download 10\)"):
        selector.run()
