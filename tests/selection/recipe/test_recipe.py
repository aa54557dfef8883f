from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from selection.recipe.apply import apply_recipe
from selection.recipe.parsed import ParsedRecipe
from selection.runner import Recipe
from selection.subset import Subset
from selection.uids import parse_uids

UIDS = parse_uids([f"{number:x}" for number in range(1, 11)])
FALLING = np.arange(10, 0, -1, dtype=np.float32)  # uid 1 is best


def kept(recipe: ParsedRecipe, **columns: np.ndarray) -> list[int]:
    subset, _ = apply_recipe(recipe, UIDS, columns)
    return [int(uid["f1"]) for uid in subset.uids]


def write_subset(path: Path, numbers: list[int]) -> str:
    Subset(parse_uids([f"{number:x}" for number in numbers])).save(path)
    return str(path)


def test_steps_keep_fractions_of_the_pool_one_after_the_other() -> None:
    recipe = ParsedRecipe.parse(
        [{"score": "s_cliploss", "keep": 0.5}, {"score": "normsim", "target": "x", "keep": 0.2}]
    )
    # Among the best five by the first, the best two by the second; two independent top sets would share nothing.
    assert kept(recipe, s_cliploss=FALLING, normsim=FALLING[::-1].copy()) == [4, 5]


def test_counts_thresholds_and_ties() -> None:
    scores = np.array([3, 3, 3, 2, 2, 2, 2, 1, 1, np.nan], np.float32)
    assert kept(ParsedRecipe.parse([{"score": "clip_score", "count": 4}]), clip_score=scores) == [1, 2, 3, 4]
    assert kept(ParsedRecipe.parse([{"score": "clip_score", "threshold": 2}]), clip_score=scores) == list(range(1, 8))
    exact = ParsedRecipe.parse([{"score": "clip_score", "keep": 0.5}])
    assert kept(exact, clip_score=scores) == [1, 2, 3, 4, 5]
    generous = ParsedRecipe.parse([{"score": "clip_score", "keep": 0.5, "ties": "datacomp"}])
    assert kept(generous, clip_score=scores) == list(range(1, 8))
    everything = ParsedRecipe.parse([{"score": "clip_score", "keep": 1.0}])
    assert kept(everything, clip_score=scores) == list(range(1, 10))  # a score that is none is never kept


def test_no_steps_keep_everything() -> None:
    assert kept(ParsedRecipe.parse([])) == list(range(1, 11))


def test_set_operations_come_after_the_steps(tmp_path: Path) -> None:
    recipe = ParsedRecipe.parse(
        [{"score": "clip_score", "keep": 0.5}],
        within=write_subset(tmp_path / "within.npy", [2, 4, 6, 8]),
        union=[write_subset(tmp_path / "union.npy", [9, 99])],
        intersect=[write_subset(tmp_path / "intersect.npy", [2, 9, 99])],
        subtract=[write_subset(tmp_path / "subtract.npy", [99])],
    )
    subset, about = apply_recipe(recipe, UIDS, {"clip_score": FALLING})
    assert [int(uid["f1"]) for uid in subset.uids] == [2, 9]
    assert about["num_pool"] == 4  # fractions refer to what within leaves
    assert about["steps"][0]["num_kept"] == 2
    assert [step["num_kept"] for step in about["operations"]] == [4, 3, 2]


def test_columns_of_one_score_are_told_apart() -> None:
    steps = [{"score": "normsim", "target": target, "keep": 0.5} for target in "ab"]
    assert [step.name for step in ParsedRecipe.parse(steps).steps] == ["normsim", "normsim_2"]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"score": "clip_score", "keep": 0}, r"steps\[0\]: keep is a fraction in \(0, 1\], got 0"),
        ({"score": "clip_score", "keep": 1.5}, r"got 1\.5"),
        ({"score": "clip_score", "keep": math.nan}, "got nan"),
        ({"score": "clip_score", "keep": "0.3"}, "keep is a number"),
        ({"score": "clip_score", "count": 0}, "count"),
        ({"score": "clip_score", "count": 1.5}, "count"),
        ({"score": "clip_score"}, "exactly one of keep, count, threshold"),
        ({"score": "clip_score", "keep": 0.1, "count": 5}, "got keep, count"),
        ({"score": "clip_scroe", "keep": 0.1}, "no score is named 'clip_scroe'"),
        ({"score": "clip_score", "keep": 0.1, "temprature": 1}, "no option temprature"),
        ({"score": "normsim", "keep": 0.1}, "option target is missing"),
        ({"score": "clip_score", "count": 3, "ties": "datacomp"}, "goes with keep"),
        ({"keep": 0.1}, "a step is a mapping with a score"),
    ],
)
def test_a_wrong_step_is_refused_with_its_place(step: dict[str, Any], words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        ParsedRecipe.parse([step])


def test_a_missing_subset_file_is_refused() -> None:
    with pytest.raises(ClipsiftError, match=r"nowhere\.npy does not exist"):
        ParsedRecipe.parse([], union=["nowhere.npy"]).check_subsets()


def reference(golden: Path, name: str) -> Subset:
    return Subset.load(golden / f"selection/golden/sets/{name}.npy")


WHOLE = {"score": "s_cliploss", "keep": 0.3, "batch_size": None}


@pytest.mark.parametrize(
    ("steps", "features", "expected"),
    [
        ([WHOLE | {"temperature": 0.01}], "l14", "scliploss30_whole_l14"),
        ([WHOLE | {"temperature": 0.07}], "b32", "scliploss30_whole_b32"),
        ([{"score": "normsim", "target": "imagenet", "p": "inf", "keep": 0.2}], "l14", "normsiminf_imagenet_l14_top20"),
        (
            [WHOLE, {"score": "normsim", "target": "imagenet", "p": "inf", "keep": 0.2}],
            "l14",
            "recipe_whole_l14_scliploss30_normsiminf_imagenet20",
        ),
        (
            [WHOLE, {"score": "normsim", "target": "imagenet", "p": 2, "keep": 0.2}],
            "l14",
            "recipe_whole_l14_scliploss30_normsim2_imagenet20",
        ),
        (
            [WHOLE, {"score": "normsim", "target": "downstream", "p": "inf", "keep": 0.2}],
            "l14",
            "recipe_whole_l14_scliploss30_normsiminf_downstream20",
        ),
        (
            [{"score": "metadata_column", "column": "clip_l14_similarity_score", "keep": 0.3, "ties": "datacomp"}],
            None,
            "datacomp_clipscore_l14_30",
        ),
        (
            [{"score": "metadata_column", "column": "clip_b32_similarity_score", "threshold": 0.2}],
            None,
            "datacomp_clipscore_b32_threshold0.20",
        ),
    ],
)
def test_recipes_choose_the_reference_uids(
    golden: Path, tmp_path: Path, steps: list[dict[str, Any]], features: str | None, expected: str
) -> None:
    targets = golden / "selection" / "targets"
    places = {
        "imagenet": targets / f"imagenet_{features}_img.npy",
        "downstream": targets / "downstream" / f"{features}",
    }
    steps = [step | {"target": str(places[step["target"]])} if "target" in step else step for step in steps]
    subset = Recipe(steps).run(str(golden / "selection" / "pool"), features, tmp_path)
    assert subset == reference(golden, expected)
    about = read_json(tmp_path / "selection" / "subset.json")
    assert about["num_kept"] == len(subset)
    assert about["num_pool"] == 3011


def test_within_a_given_subset(golden: Path) -> None:
    target = str(golden / "selection/targets/downstream/l14")
    recipe = Recipe(
        [WHOLE | {"keep": 0.9}, {"score": "normsim", "target": target, "p": "inf", "keep": 0.8}],
        within=str(golden / "selection/golden/sets/given_subset.npy"),
    )
    subset = recipe.run(str(golden / "selection" / "pool"), "l14")
    assert subset == reference(golden, "recipe_given_subset_scliploss90_normsiminf_downstream80")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"score": "clip_score", "threshold": float("-inf")}, "threshold is a number, got -inf"),
        ({"score": "clip_score", "keep": float("nan")}, "keep is a number, got nan"),
        ({"score": "s_cliploss", "temperature": float("inf"), "keep": 0.5}, "temperature is a number"),
        ({"score": "normsim", "target": "t", "p": float("nan"), "keep": 0.5}, "p is a number"),
        ({"method": "semdedup", "epsilon": float("inf")}, "epsilon is a number"),
    ],
)
def test_numbers_that_are_none_are_refused_and_infinity_where_it_means_nothing(step: dict, words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        ParsedRecipe.parse([step])


def test_yamls_infinity_is_the_word() -> None:
    infinite = [
        ParsedRecipe.parse([{"score": "normsim", "target": "t", "p": p, "keep": 1}]) for p in (float("inf"), "inf")
    ]
    assert infinite[0] == infinite[1]
