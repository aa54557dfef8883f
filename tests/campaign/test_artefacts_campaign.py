"""Damaged files of our own: scores, subsets, indexes, notes. A start makes them again, or names them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from helpers.features import unit_array
from helpers.mutations import NUM_WAYS, mutate, outcome, strangers
from helpers.pools import write_pool
from selection.features.files import write_feature_file
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import format_uids, parse_uids

pytestmark = pytest.mark.slow

UIDS = [f"{number:032x}" for number in range(1, 201)]
STEPS: list[dict[str, Any]] = [{"score": "clip_score", "keep": 0.5}, {"score": "random", "keep": 0.2}]


def _select(folder: Path, steps: list[dict[str, Any]] = STEPS) -> list[str]:
    selection = Selection(features="l14", steps=steps)
    selector = Selector(selection, Pool(str(folder / "pool")), folder / "run", folder / "cache")
    return format_uids(Subset.load(selector.run()).uids)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A finished selection with its cache, and what it kept."""
    folder = tmp_path_factory.mktemp("made")
    image, text = (unit_array(np.random.default_rng(seed), len(UIDS), 8) for seed in (0, 1))
    write_feature_file(folder / "pool/metadata", "l14", "0", parse_uids(UIDS), ["a"] * len(UIDS), image, text)
    return folder, _select(folder)


def _copy(made: Path, folder: Path) -> None:
    """With all times: what was read need not be read again."""
    shutil.copytree(made, folder, dirs_exist_ok=True)


SCORES = ["run/selection/scores/0.parquet", "cache/scores/**/*.parquet"]
INDEX = [f"*.volume/{name}" for name in ("rows.bin", "uids.bin", "marks.bin", "shards.arrow", "volume.json")]
INDEX += [f"*[0-9a-f]/{name}" for name in ("index.json", "left_out.npy", "shards.arrow")]
OTHERS = ["run/selection/subset.npy", "run/selection/subset.json", "cache/contents/*.json"]


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("name", SCORES)
def test_scores(made: tuple[Path, list[str]], tmp_path: Path, name: str, seed: int) -> None:
    """The subset is gone: it is chosen from the scores that are there."""
    _copy(made[0], tmp_path)
    (tmp_path / "run/selection/subset.json").unlink()
    if "cache" in name:
        shutil.rmtree(tmp_path / "run/selection/scores")
    path = next(tmp_path.glob(name))
    mutation = mutate(path.read_bytes(), seed)
    path.write_bytes(mutation.data)
    found = outcome(lambda: _select(tmp_path), path)
    assert found is None or found == made[1], mutation.what


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_finished(made: tuple[Path, list[str]], tmp_path: Path, name: str, seed: int) -> None:
    _copy(made[0], tmp_path)
    for path in tmp_path.glob(name):
        mutation = mutate(path.read_bytes(), seed, block=16)
        path.write_bytes(mutation.data)
        found = outcome(lambda: _select(tmp_path), tmp_path)
        assert found is None or found == made[1], mutation.what


@pytest.mark.parametrize("name", [*SCORES, *OTHERS])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers(made: tuple[Path, list[str]], tmp_path: Path, mark: Path, name: str, stranger: str) -> None:
    _copy(made[0], tmp_path)
    for path in tmp_path.glob(name):
        path.write_bytes(strangers(mark)[stranger])
    found = outcome(lambda: _select(tmp_path), tmp_path)
    assert found is None or found == made[1]


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("name", INDEX)
def test_the_index(tmp_path: Path, name: str, seed: int) -> None:
    """Made again where it is not as it was written."""
    pool = Pool(str(write_pool(tmp_path / "pool", {"0": 5, "1": 4})))
    whole = PoolIndex.build(pool, tmp_path / "cache")
    written = {whole.read(row).uid: whole.read(row).image for row in range(len(whole))}
    path = next((tmp_path / "cache/index").glob(name))
    mutation = mutate(path.read_bytes(), seed, block=16)
    path.write_bytes(mutation.data)

    def read() -> dict[str, bytes]:
        index = PoolIndex.build(pool, tmp_path / "cache")
        return {sample.uid: sample.image for sample in map(index.read, range(len(index)))}

    assert read() == written, f"{mutation.what} in {path.name}"


def test_a_refusal_says_which_file_to_delete_and_that_helps(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    _copy(made[0], tmp_path)
    path = tmp_path / "run/selection/scores/0.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    (tmp_path / "run/selection/subset.json").unlink()
    with pytest.raises(ClipsiftError, match=rf"{path}: .*delete it to have it made again"):
        _select(tmp_path)
    path.unlink()
    assert _select(tmp_path) == made[1]
