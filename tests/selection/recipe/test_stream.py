"""The streamed selection keeps what the in-memory definition keeps, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from clipsift_common.errors import ClipsiftError
from selection import subset_files
from selection.kernels import calendar, cut, ranks
from selection.recipe.apply import apply_recipe
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.stream import choose
from selection.subset import Subset
from selection.uids import UID_DTYPE, parse_uids, uid_column

# Few values, so that ties abound; both zeros, the smallest and the largest number, and what is none.
VALUES = [0.0, -0.0, 1.0, 1.0 + 2**-23, -1.0, 0.5, 1e-45, 3.4e38, -3.4e38, np.nan, np.inf, -np.inf]

scores = st.lists(st.sampled_from(VALUES), min_size=1, max_size=60)
steps = st.one_of(
    st.fixed_dictionaries(
        {"keep": st.sampled_from([0.2, 0.5, 0.9, 1.0]), "ties": st.sampled_from(["exact", "datacomp"])}
    ),
    st.fixed_dictionaries({"count": st.integers(1, 40)}),
    st.fixed_dictionaries({"threshold": st.sampled_from([0.0, 0.5, 1.0, -5.0])}),
)


def write_scores(folder: Path, uids: np.ndarray, columns: dict[str, np.ndarray], file_rows: int) -> list[Path]:
    paths = []
    for start in range(0, len(uids), file_rows):
        rows = slice(start, start + file_rows)
        arrays = {"uid": uid_column(uids[rows])} | {name: pa.array(values[rows]) for name, values in columns.items()}
        paths.append(folder / f"{start:06d}.parquet")
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays), paths[-1])
    return paths


def some_uids(count: int, seed: int = 0, repeats: bool = True) -> np.ndarray:
    """Uids of which some share their high half and, with ``repeats``, some occur twice."""
    rng = np.random.default_rng(seed)
    uids = np.empty(count, UID_DTYPE)
    uids["f0"] = rng.integers(0, 3, count) * np.uint64(1 << 62)
    uids["f1"] = rng.integers(0, count, count) if repeats else rng.permutation(count)
    return uids


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so low that every way of the streamed selection is taken."""
    monkeypatch.setattr(cut, "GATHERED", 2)
    monkeypatch.setattr(ranks, "RUN_ROWS", 9)
    monkeypatch.setattr(ranks, "STRETCH_VALUES", 4)
    monkeypatch.setattr(ranks, "_STRIDE", 2)
    monkeypatch.setattr(calendar, "HELD", 5)
    monkeypatch.setattr(subset_files, "RUN_UIDS", 7)
    monkeypatch.setattr(subset_files, "OPEN_RUNS", 3)
    monkeypatch.setattr(subset_files, "STRETCH_UIDS", 4)
    monkeypatch.setattr(subset_files, "_STRIDE", 2)


def check(folder: Path, recipe: ParsedRecipe, uids: np.ndarray, columns: dict[str, np.ndarray], file_rows: int) -> None:
    paths = write_scores(folder / "scores", uids, columns, file_rows)
    try:
        expected, about = apply_recipe(recipe, uids, columns)
    except ClipsiftError as error:
        with pytest.raises(ClipsiftError, match=str(error)[:20]):
            choose(paths, recipe, folder / "subset.npy")
        return
    expected.save(folder / "expected.npy")
    told = choose(paths, recipe, folder / "subset.npy")
    for step in told["steps"]:
        last = step.pop("last_tie", None)
        assert last is None or parse_uids([last])[0] in uids
    assert told == about | {"num_kept": len(expected), "num_unique": len(expected.unique)}
    assert (folder / "subset.npy").read_bytes() == (folder / "expected.npy").read_bytes()
    assert not list(folder.glob(".*"))


@pytest.mark.usefixtures("small")
@settings(max_examples=150, deadline=None)
@given(first=scores, chosen=st.lists(steps, max_size=2), file_rows=st.integers(1, 25), seed=st.integers(0, 3))
def test_ties_and_nan_as_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[float],
    chosen: list[dict[str, Any]],
    file_rows: int,
    seed: int,
) -> None:
    columns = {"random": np.array(first, np.float32), "random_2": np.array(first[::-1], np.float32)}
    recipe = ParsedRecipe.parse([{"score": "random"} | step for step in chosen])
    check(tmp_path_factory.mktemp("pool"), recipe, some_uids(len(first), seed), columns, file_rows)


COMBINED = [{"score": "random"}, {"score": "random", "name": "other"}]
NESTED = {"score": "weighted_sum", "weights": [-0.5, 2.0], "of": [{"score": "rank_sum", "of": COMBINED}, COMBINED[0]]}


@pytest.mark.usefixtures("small")
@settings(max_examples=40, deadline=None)
@given(
    first=st.lists(st.sampled_from(VALUES), min_size=4, max_size=60),
    column=st.sampled_from(
        [
            {"score": "rank_sum", "of": COMBINED},
            {"score": "rank_sum", "of": [NESTED, *COMBINED]},
            {"score": "weighted_sum", "of": COMBINED},
            {"score": "weighted_sum", "of": COMBINED, "normalise": False},
            NESTED,
        ]
    ),
    chosen=steps,
    within=st.booleans(),
    file_rows=st.integers(1, 25),
)
def test_combinations_as_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[float],
    column: dict[str, Any],
    chosen: dict[str, Any],
    within: bool,
    file_rows: int,
) -> None:
    """What a step before has dropped still counts in the ranks, what is not ``within`` does not."""
    folder, uids = tmp_path_factory.mktemp("pool"), some_uids(len(first))
    Subset(uids[: len(uids) - len(uids) // 3]).save(folder / "within.npy")
    columns = {"random": np.array(first, np.float32), "other": np.roll(np.array(first, np.float32), 3)}
    before = {"score": "random", "count": max(1, len(first) // 2)}
    recipe = ParsedRecipe.parse([before, column | chosen], str(folder / "within.npy") if within else None)
    check(folder, recipe, uids, columns, file_rows)


@pytest.mark.usefixtures("small")
@settings(max_examples=25, deadline=None)
@given(
    first=st.lists(st.sampled_from([*VALUES[:6], 2.0, 7.5, np.nan]), min_size=4, max_size=60),
    method=st.sampled_from(
        [
            {"method": "soft_cap_sampling", "batch_size": 3, "alpha": 0.7},
            {"method": "soft_cap_sampling", "batch_size": 1},
            {"method": "hard_cap_sampling", "cap": 30},
        ]
    ),
    column=st.sampled_from([{"score": "random"}, {"score": "rank_sum", "of": COMBINED}]),
    count=st.integers(1, 100),
    file_rows=st.integers(1, 25),
)
def test_draws_as_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[float],
    method: dict[str, Any],
    column: dict[str, Any],
    count: int,
    file_rows: int,
) -> None:
    columns = {"random": np.array(first, np.float32), "other": np.roll(np.array(first, np.float32), 3)}
    steps = [{"score": "random", "keep": 0.9}, method | {"of": column, "count": count}]
    check(tmp_path_factory.mktemp("pool"), ParsedRecipe.parse(steps), some_uids(len(first)), columns, file_rows)


@pytest.mark.usefixtures("small")
def test_sets_as_in_memory(tmp_path: Path) -> None:
    uids = some_uids(200)
    columns = {"random": np.random.default_rng(1).integers(0, 9, 200).astype(np.float32)}
    files = {}
    for number, name in enumerate(("within", "union", "intersect", "subtract")):
        size = 150 if name in ("within", "intersect") else 20
        files[name] = str(tmp_path / f"{name}.npy")
        Subset(np.concatenate([uids[number : number + size], some_uids(10, 9)])).save(files[name])
    recipe = ParsedRecipe.parse(
        [{"score": "random", "keep": 0.4}],
        within=files["within"],
        union=[files["union"], files["within"]],
        intersect=[files["intersect"]],
        subtract=[files["subtract"]],
    )
    check(tmp_path, recipe, uids, columns, 13)


def test_real_sizes_take_the_same_way(tmp_path: Path) -> None:
    """Unpatched limits; all scores equal, so that the uids decide."""
    uids = some_uids(5000, repeats=False)
    columns = {"random": np.zeros(5000, np.float32)}
    check(tmp_path, ParsedRecipe.parse([{"score": "random", "keep": 0.3}]), uids, columns, 777)


def test_a_damaged_score_file_is_named(tmp_path: Path) -> None:
    recipe = ParsedRecipe.parse([{"score": "random", "keep": 0.3}])
    paths = write_scores(tmp_path, some_uids(10), {"other": np.zeros(10, np.float32)}, 5)
    with pytest.raises(ClipsiftError, match=r"000000\.parquet: no whole score file"):
        choose(paths, recipe, tmp_path / "subset.npy")
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(ClipsiftError, match=r"000005\.parquet: no whole score file .* delete it"):
        choose(paths, recipe, tmp_path / "subset.npy")
