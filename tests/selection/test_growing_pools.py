"""A pool that grows or changes: only what is new is read, and the result is that of a fresh selection."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsift_common.clip import LoadedCLIP
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from helpers.features import unit_array
from helpers.pools import sample
from helpers.tars import write_tar
from helpers.tiny_clip import wrapped_clip
from selection import selector
from selection.features import embed as embedding
from selection.features.files import write_feature_file
from selection.pool import build
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.scoring import columns
from selection.selector import Selector
from selection.settings import Embedding, Selection, Teacher
from selection.uids import parse_uids

STEPS = [{"score": "s_cliploss", "temperature": 0.07, "keep": 0.6}, {"score": "random", "keep": 0.4}]
BLOCK = 16  # rows


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> LoadedCLIP:
    return wrapped_clip(tmp_path_factory.mktemp("model"))


class Work:
    """What was done since it was last asked: shards scanned, shards embedded, files whose features were scored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: dict[str, list[str]] = {"scanned": [], "embedded": [], "scored": []}
        self._note(monkeypatch, build, "scan_tar", "scanned", lambda handle, shard, *_: [shard])
        self._note(monkeypatch, embedding._FeatureWriter, "_write", "embedded", self._embedded)
        self._note(monkeypatch, columns, "_features", "scored", lambda block, *_: [file.stem for file in block])

    def _note(self, patch: Any, owner: Any, name: str, kind: str, what: Callable[..., list[str]]) -> None:
        original = getattr(owner, name)

        def noting(*arguments: Any) -> Any:
            self.done[kind] += what(*arguments)
            return original(*arguments)

        patch.setattr(owner, name, noting)

    @staticmethod
    def _embedded(writer: Any, shard: int) -> list[str]:
        return [writer.index.shards[shard].name]

    def since(self) -> dict[str, list[str]]:
        done = {kind: sorted(names) for kind, names in self.done.items()}
        for names in self.done.values():
            names.clear()
        return done


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    monkeypatch.setattr(selector, "BLOCK_ROWS", BLOCK)
    return Work(monkeypatch)


def write_shard(pool: Path, name: str, first: int, count: int) -> None:
    """Samples ``first`` to ``first + count``, told apart by picture, caption and uid."""
    members = []
    for number in range(first, first + count):
        members += sample(f"{number:06d}", number, json=f'{{"uid": "{number + 1:032x}"}}'.encode())
    write_tar(pool / f"{name}.tar", members)


def write_metadata(pool: Path, name: str, first: int, count: int) -> None:
    image, text = (unit_array(np.random.default_rng([first, seed]), count, 8) for seed in range(2))
    uids = parse_uids([f"{number + 1:032x}" for number in range(first, first + count)])
    write_feature_file(pool / "metadata", "l14", name, uids, ["a b c"] * count, image, text)


def select(pool: Path, out: Path, cache: Path, clip: LoadedCLIP | None, steps: Any = STEPS) -> dict[str, bytes]:
    """The run's subset and score files."""
    how = Embedding(4, 0)
    teacher = Teacher("m", "x") if clip else None
    settings = Selection(teacher, None if clip or steps[0]["score"] == "random" else "l14", list(steps), embedding=how)
    load = (lambda: clip) if clip else None
    Selector(settings, Pool(str(pool)), out, cache, 0, Machine("cpu", 1), load).run()
    folder = out / "selection"
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in [*folder.rglob("*.npy"), *folder.rglob("*.parquet")]
    }


def write(pool: Path, clip: Any, shards: dict[str, tuple[int, int]]) -> None:
    for name, (first, count) in shards.items():
        (write_shard if clip else write_metadata)(pool, name, first, count)


START = {"1": (0, 16), "3": (20, 9), "4": (30, 8), "5": (40, 16), "6": (60, 5)}  # blocks: 1 | 3 4 | 5 6


@pytest.mark.parametrize("kind", ["tars", "metadata"])
@pytest.mark.parametrize(
    ("change", "made", "blocks"),
    [
        ({"7": (70, 12)}, ["7"], "567"),  # 6, which was the last block's rest, is now in one with 7
        ({"7": (70, 3)}, ["7"], "567"),  # too small for a block of its own
        ({"0": (70, 16)}, ["0"], "0"),  # before all others
        ({"2": (70, 16)}, ["2"], "2"),  # between two blocks
        ({"35": (70, 4)}, ["35"], ["3", "35", "4"]),  # within a block
        ({"4": (80, 8)}, ["4"], "34"),  # changed
        ({"1": (0, 15)}, ["1"], "13456"),  # one sample less, so that its block takes another file, and so on
        ({"8": (90, 16), "9": (110, 16)}, ["8", "9"], "5689"),
        ({"6": None}, [], "5"),  # gone
        ({}, [], ""),
    ],
)
def test_a_changed_pool_gives_what_a_fresh_selection_gives(clip, tmp_path, work, kind, change, made, blocks):
    teacher = clip if kind == "tars" else None
    pool, cache = tmp_path / "pool", tmp_path / "cache"
    write(pool, teacher, START)
    before = select(pool, tmp_path / "before", cache, teacher)
    work.since()
    for name in [name for name, there in change.items() if there is None]:
        for path in pool.rglob(f"{name}.*"):
            path.unlink()
    write(pool, teacher, {name: there for name, there in change.items() if there})
    after = select(pool, tmp_path / "after", cache, teacher)
    done = work.since()
    assert set(done["scored"]) == set(blocks)
    assert done["scanned"] == done["embedded"] == (made if teacher else [])
    assert after == select(pool, tmp_path / "fresh", tmp_path / "fresh_cache", teacher)
    assert (after == before) == (change == {})


def test_what_looks_at_no_feature_grows_too(tmp_path, work):
    pool, cache, steps = tmp_path / "pool", tmp_path / "cache", [{"score": "random", "keep": 0.5}]
    write(pool, "tars", START)
    select(pool, tmp_path / "before", cache, None, steps)
    work.since()
    write(pool, "tars", {"9": (100, 16)})
    after = select(pool, tmp_path / "after", cache, None, steps)
    assert work.since() == {"scanned": ["9"], "embedded": [], "scored": ["5", "6", "9"]}
    assert after == select(pool, tmp_path / "fresh", tmp_path / "fresh_cache", None, steps)


@pytest.mark.parametrize("kind", ["tars", "metadata"])
def test_the_same_out_does_not_give_the_old_subset(clip, tmp_path, work, kind):
    teacher = clip if kind == "tars" else None
    pool, out = tmp_path / "pool", tmp_path / "run"
    write(pool, teacher, START)
    select(pool, out, out / "cache", teacher)
    write(pool, teacher, {"7": (70, 16)})
    old = (out / "selection/subset.npy").read_bytes()
    with pytest.raises(ClipsiftError, match=r"use another --out or delete it; with the same --cache only what is new"):
        select(pool, out, out / "cache", teacher)
    assert (out / "selection/subset.npy").read_bytes() == old
    work.since()
    shutil.rmtree(out / "selection")  # what the message says
    after = select(pool, out, out / "cache", teacher)
    assert set(work.since()["scored"]) == {"5", "6", "7"}
    assert after == select(pool, tmp_path / "fresh", tmp_path / "fresh_cache", teacher)


def test_interrupted_before_the_pool_changed_nothing_stale_is_left(clip, tmp_path, work, monkeypatch):
    pool, out = tmp_path / "pool", tmp_path / "run"
    write(pool, clip, START)
    with monkeypatch.context() as patch:
        patch.setattr(selector, "choose", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            select(pool, out, tmp_path / "cache", clip)
    (pool / "6.tar").unlink()
    assert select(pool, out, tmp_path / "cache", clip) == select(pool, tmp_path / "fresh", tmp_path / "other", clip)


def test_two_pools_with_shards_of_the_same_names_share_a_cache(clip, tmp_path, work):
    for name, first in (("a", 0), ("b", 200)):
        write(tmp_path / name, clip, {"1": (first, 16), "2": (first + 50, 16)})
    first = select(tmp_path / "a", tmp_path / "run_a", tmp_path / "cache", clip)
    select(tmp_path / "b", tmp_path / "run_b", tmp_path / "cache", clip)
    work.since()
    assert select(tmp_path / "a", tmp_path / "again", tmp_path / "cache", clip) == first
    assert work.since()["embedded"] == work.since()["scored"] == []


def test_embed_replaces_the_features_of_a_shard_that_changed(clip, tmp_path, work):
    pool = tmp_path / "pool"
    write(pool, clip, {"1": (0, 5), "2": (10, 5)})

    def made() -> dict[str, bytes]:
        index = PoolIndex.build(Pool(str(pool)), tmp_path / "cache")
        files, _ = embedding.embed(index, clip, tmp_path / "metadata", "x", Machine("cpu", 1), 4)
        return {file.stem: file.image().tobytes() for file in files}

    first = made()
    work.since()
    write(pool, clip, {"2": (20, 5), "3": (30, 4)})
    second = made()
    assert work.since()["embedded"] == ["2", "3"]
    assert second["1"] == first["1"]
    assert second["2"] != first["2"]
    assert second.keys() == {"1", "2", "3"}
