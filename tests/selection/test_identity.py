"""A result is never taken for one of other inputs: what a selection depends on is known by content, not by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from clipsift_common import files as common_files
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import Contents, read_json, write_json
from helpers.features import unit_array
from selection.features.files import FeatureFile, write_feature_file
from selection.methods import METHODS
from selection.pool.location import Pool
from selection.runner import Recipe
from selection.scores import SCORES
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import format_uids, parse_uids

NUM = 60
UIDS = [f"{number:032x}" for number in range(1, NUM + 1)]
IMAGE, TEXT = (unit_array(np.random.default_rng(seed), NUM, 4) for seed in (0, 1))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Metadata with features; two targets, centroids and subsets by the names ``a`` and ``b``."""
    write_feature_file(tmp_path / "pool" / "metadata", "l14", "0", parse_uids(UIDS), ["a b c"] * NUM, IMAGE, TEXT)
    for seed, name in enumerate("ab", start=5):
        np.save(tmp_path / f"{name}.npy", unit_array(np.random.default_rng(seed), 5, 4))
        Subset(parse_uids(UIDS[seed::2])).save(tmp_path / f"{name}-subset.npy")
    return tmp_path


def select(world: Path, out: str = "run", **selection: Any) -> list[str]:
    """The uids kept by one start, with a cache that all starts share."""
    settings = Selection(features="l14", **selection)
    path = Selector(settings, Pool(str(world / "pool")), world / out, world / "cache").run()
    return format_uids(Subset.load(path).uids)


def put(source: Path, target: Path) -> None:
    """Replace a file in place; size and time of change stay, as ``cp -p`` and ``rsync -t`` leave them."""
    about = target.stat()
    target.write_bytes(source.read_bytes())
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))


def best(target: np.ndarray) -> list[str]:
    """The 20 with the largest absolute product with any row of a target."""
    order = np.argsort(-np.abs(IMAGE.astype(np.float16).astype(np.float32) @ target.T).max(1))[:20]
    return sorted(UIDS[row] for row in order)


NEAREST = {"score": "normsim", "p": float("inf"), "keep": 1 / 3}


def test_another_target_of_the_same_name_is_another_selection(world: Path) -> None:
    target, steps = world / "t.npy", [{**NEAREST, "target": str(world / "t.npy")}]
    rows = {name: np.load(world / f"{name}.npy") for name in "ab"}
    target.write_bytes((world / "a.npy").read_bytes())
    assert select(world, steps=steps) == best(rows["a"])
    put(world / "b.npy", target)
    with pytest.raises(ClipsiftError, match=r"other settings \(what .*t\.npy holds\); use another --out or delete it"):
        select(world, steps=steps)
    assert select(world, "other", steps=steps) == best(rows["b"]) != best(rows["a"])
    put(world / "a.npy", target)
    assert select(world, steps=steps) == best(rows["a"])


def test_a_target_that_moved_is_the_same(world: Path) -> None:
    select(world, steps=[{**NEAREST, "target": str(world / "a.npy")}])
    before = (world / "run/selection/subset.json").stat().st_mtime_ns
    (world / "a.npy").rename(world / "moved.npy")
    select(world, steps=[{**NEAREST, "target": str(world / "moved.npy")}])
    assert (world / "run/selection/subset.json").stat().st_mtime_ns == before


def _folder_target(world: Path) -> dict[str, Any]:
    (world / "t").mkdir(exist_ok=True)
    (world / "t/0.npy").write_bytes((world / "a.npy").read_bytes())
    return {"steps": [{**NEAREST, "target": str(world / "t")}]}


def _centroids(world: Path) -> dict[str, Any]:
    step = {"method": "semdedup", "epsilon": 0.4, "centroids": str(world / "a.npy")}
    return {"steps": [step]}


def _image_based(world: Path) -> dict[str, Any]:
    step = {"score": "datacomp_image_based", "centroids": str(world / "b.npy"), "target": str(world / "a.npy")}
    return {"steps": [{**step, "keep": 0.9}]}


def _operation(name: str) -> Callable[[Path], dict[str, Any]]:
    def settings(world: Path) -> dict[str, Any]:
        path = str(world / "a-subset.npy")
        return {name: path if name == "within" else [path], "steps": [{"score": "clip_score", "keep": 0.5}]}

    return settings


@pytest.mark.parametrize(
    ("settings", "changed"),
    [
        (_folder_target, "t/0.npy"),
        (_centroids, "a.npy"),
        (_image_based, "b.npy"),
        *[(_operation(name), "a-subset.npy") for name in ("within", "union", "intersect", "subtract")],
    ],
)
def test_whatever_file_a_recipe_names_is_known_by_its_content(
    world: Path, settings: Callable[[Path], dict[str, Any]], changed: str
) -> None:
    selection = settings(world)
    select(world, **selection)
    select(world, **selection)
    source = "b-subset.npy" if "subset" in changed else "a.npy" if changed.startswith("b") else "b.npy"
    put(world / source, world / changed)
    with pytest.raises(ClipsiftError, match=r"other settings \(what "):
        select(world, **selection)


@pytest.mark.parametrize(
    "step",
    [
        {"score": "datacomp_basic", "language": "FILE", "keep": 0.5},
        {
            "score": "rank_sum",
            "of": [{"score": "random"}, {"score": "datacomp_basic", "language": "FILE"}],
            "keep": 0.5,
        },
        {"method": "clipcov", "classes": "FILE", "count": 5},
        {"score": "normsim", "target": "trusted", "keep": 0.5},
    ],
)
def test_language_models_classes_and_trusted_shards_are_known_by_content(world: Path, step: dict[str, Any]) -> None:
    """What the identity has of them; such files need not be read for it."""
    file = world / "file.bin"

    def inputs() -> Any:
        named = yaml.safe_load(yaml.safe_dump(step).replace("FILE", str(file)))
        settings = Selection(features="l14", steps=[named])
        pool = Pool(str(world / "pool"))
        return Selector(settings, pool, world / "run", world / "cache", trusted=str(file))._inputs()

    file.write_bytes(b"1" * 64)
    before = inputs()
    assert len(before) == 1
    (world / "other").write_bytes(b"2" * 64)
    put(world / "other", file)
    assert inputs().keys() == before.keys()
    assert inputs() != before


def test_subset_files_of_one_name_are_told_apart(world: Path) -> None:
    for folder, name in (("x", "a"), ("y", "b")):
        (world / folder).mkdir()
        (world / folder / "s.npy").write_bytes((world / f"{name}-subset.npy").read_bytes())
    selection = {"union": [str(world / "x/s.npy"), str(world / "y/s.npy")], "steps": []}
    select(world, **selection)
    put(world / "y/s.npy", world / "x/s.npy")
    with pytest.raises(ClipsiftError, match=r"what .*x/s\.npy holds"):
        select(world, **selection)


def test_metadata_that_changed_behind_its_footer_is_other_metadata(world: Path) -> None:
    """Two values change places: size, smallest and largest of the column stay."""
    path = world / "pool/metadata/0.parquet"
    uids = [*UIDS[:3], UIDS[4], UIDS[3], *UIDS[5:]]
    before = FeatureFile(str(path), "l14").fingerprint()
    selection = {"steps": [{"score": "clip_score", "keep": 0.5}]}
    select(world, **selection)
    pq.write_table(pa.table({"uid": uids, "text": ["a b c"] * NUM}), path, write_page_checksum=True)
    assert FeatureFile(str(path), "l14").fingerprint() == before
    with pytest.raises(ClipsiftError, match=r"other settings \(the pool's features\)"):
        select(world, **selection)


@pytest.mark.parametrize(
    ("registry", "name", "step"),
    [
        (SCORES, "clip_score", {"score": "clip_score", "keep": 0.5}),
        (METHODS, "semdedup", {"method": "semdedup", "epsilon": 0.4, "clusters": 3}),
    ],
)
def test_scores_of_another_version_of_the_code_are_stale(
    world: Path, monkeypatch: pytest.MonkeyPatch, registry: dict[str, Any], name: str, step: dict[str, Any]
) -> None:
    select(world, steps=[step])
    monkeypatch.setitem(registry, name, replace(registry[name], version=registry[name].version + 1))
    with pytest.raises(ClipsiftError, match=rf"other settings \(the code of {name}\)"):
        select(world, steps=[step])


def test_a_new_version_of_a_score_is_computed_and_not_found_in_the_cache(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worst = {"score": "clip_score", "keep": 0.5}
    first = select(world, steps=[worst])
    spec = SCORES["clip_score"]
    other = replace(spec, function=lambda block: -spec.function(block), version=2)
    monkeypatch.setitem(SCORES, "clip_score", other)
    assert sorted(first + select(world, "other", steps=[worst])) == UIDS


def test_the_subset_file_is_checked_by_its_fingerprint(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    selection = {"steps": [{"score": "clip_score", "keep": 0.5}]}
    kept = select(world, **selection)
    path = world / "run/selection/subset.npy"
    whole = path.read_bytes()
    for place in (len(whole) - 3, 150, 70):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ClipsiftError, match=r"subset\.npy: is not the file that was written.*delete it"):
            select(world, **selection)
    path.unlink()
    assert select(world, **selection) == kept
    assert "subset.npy: is gone; it is made again" in caplog.text
    assert path.read_bytes() == whole


def test_a_run_of_a_release_without_contents_is_recognised(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As it recorded itself: features and subset files, and of a target its name."""
    selection = {"steps": [{**NEAREST, "target": str(world / "a.npy")}]}
    kept = select(world, **selection)
    note = world / "run/selection/subset.json"
    about = read_json(note)
    footers = common_files.fingerprint([FeatureFile(str(world / "pool/metadata/0.parquet"), "l14").fingerprint()])
    parents = {"features": footers, "subsets": {}}
    identity = common_files.fingerprint([about["recipe"], 0, [False, False], parents])
    del about["how"]
    write_json(note, about | {"parents": parents, "identity": identity})
    before = note.read_bytes()
    assert select(world, **selection) == kept
    assert "did not record what" in caplog.text
    assert "a.npy" in caplog.text
    assert note.read_bytes() == before
    with pytest.raises(ClipsiftError, match="other settings"):
        select(world, steps=[{**NEAREST, "keep": 0.2, "target": str(world / "a.npy")}])


def test_contents_are_read_again_when_something_touched_them_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x", "y"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.bin").write_bytes(name.encode() * 100)
    read: list[str] = []

    def of_file(path: str | Path) -> str:
        read.append(str(path))
        return common_files.file_fingerprint(path)

    monkeypatch.setattr(common_files, "_SETTLED", -1)  # the test does not wait for the clock
    contents = Contents(tmp_path / "cache", of_file)
    first = contents.of(str(tmp_path / "data"))
    assert len(read) == 2
    assert contents.of(str(tmp_path / "data")) == first
    assert len(read) == 2
    put(tmp_path / "data/y/0.bin", tmp_path / "data/x/0.bin")  # same size, same time of change
    second = contents.of(str(tmp_path / "data"))
    assert second != first
    assert read[2:] == [str(tmp_path / "data/x/0.bin")]
    (tmp_path / "data/x/0.bin").rename(tmp_path / "data/x/1.bin")
    assert contents.of(str(tmp_path / "data")) not in (first, second)
    with pytest.raises(ClipsiftError, match="nothing: does not exist"):
        contents.of(str(tmp_path / "nothing"))


def test_a_file_that_has_just_changed_is_read_again_next_time(tmp_path: Path) -> None:
    """Its next change may fall into the same tick of the clock."""
    (tmp_path / "a").write_bytes(b"1")
    Contents(tmp_path / "cache").of(str(tmp_path / "a"))
    assert not list((tmp_path / "cache").glob("*.json"))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_target_rows_are_normalised_as_the_pools_are(world: Path, dtype: type) -> None:
    target = np.load(world / "a.npy")
    np.save(world / "long.npy", (target * np.array([[0.1], [3], [1], [7], [2]])).astype(dtype))
    kept = [
        select(world, name, steps=[{**NEAREST, "target": str(world / f"{name}.npy")}], normalise=True)
        for name in ("a", "long")
    ]
    assert kept[0] == kept[1] == best(target)


def test_target_rows_of_another_length_are_said(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(world / "long.npy", np.load(world / "a.npy") * np.array([[1], [1], [3], [1], [1]]))
    select(world, steps=[{**NEAREST, "target": str(world / "long.npy")}])
    assert "long.npy: 1 of 5 rows are not of unit length (first: row 2, length 3)" in caplog.text
    caplog.clear()
    select(world, "other", steps=[{**NEAREST, "target": str(world / "a.npy")}])
    assert "not of unit length" not in caplog.text


SECOND = {"score": "random", "keep": 0.5}


@pytest.mark.parametrize(
    ("steps", "idle"),
    [
        ([{"score": "clip_score", "keep": 0.1}, SECOND], [False, True]),
        ([{"score": "clip_score", "count": 1_000_000}], [True]),
        ([{"score": "clip_score", "threshold": -2}], [True]),
        ([{"score": "clip_score", "keep": 0.5}, {"score": "random", "keep": 0.1}], [False, False]),
        ([{"score": "clip_score", "keep": 1.0}], [False]),  # asked for
        ([{"score": "rank_sum", "of": [{"score": "clip_score"}, {"score": "random"}], "count": 99}], [True]),
    ],
)
def test_a_step_that_drops_nothing_says_so(
    world: Path, caplog: pytest.LogCaptureFixture, steps: list[dict[str, Any]], idle: list[bool]
) -> None:
    select(world, steps=steps)
    about = read_json(world / "run/selection/subset.json")
    assert [step["drops_none"] for step in about["steps"]] == idle
    assert caplog.text.count("drops none of the") == sum(idle)


@pytest.mark.parametrize("wrong", [0.0, np.nan, np.inf])
def test_rows_that_no_cosine_has_are_refused_wherever_a_target_stands(world: Path, wrong: float) -> None:
    rows = np.load(world / "a.npy")
    rows[3] = wrong
    np.save(world / "bad.npy", rows)
    steps = [
        {**NEAREST, "target": str(world / "bad.npy")},
        {"method": "semdedup", "epsilon": 0.1, "centroids": str(world / "bad.npy")},
    ]
    for step in steps:
        with pytest.raises(ClipsiftError, match=r"bad\.npy row 3 is not finite or all zero; leave it out"):
            select(world, steps=[step])
    with pytest.raises(ClipsiftError, match="target: given row 3 is not finite or all zero"):
        Recipe([{**NEAREST, "target": "given"}]).run(str(world / "pool"), "l14", targets={"given": rows})
