"""Steps beyond one score: combinations of columns, and methods that choose a set, from the YAML to the subset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from helpers.bundle import Bundle
from selection.features.files import FeatureFile, write_feature_file
from selection.methods import METHODS
from selection.methods.clipcov import clipcov
from selection.recipe.apply import apply_recipe
from selection.recipe.gather import PoolFeatures
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.step import map_paths
from selection.registry import Candidates, register_method
from selection.runner import Recipe
from selection.scores.vas import second_moment
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import parse_uids

UIDS = parse_uids([f"{number:x}" for number in range(1, 11)])
FALLING = np.arange(10, 0, -1, dtype=np.float32)  # uid 1 is best
RISING = FALLING[::-1].copy()


def kept(steps: list[dict[str, Any]], within: str | None = None, **columns: np.ndarray) -> list[int]:
    subset, _ = apply_recipe(ParsedRecipe.parse(steps, within), UIDS, columns)
    return [int(uid["f1"]) for uid in subset.uids]


TWO = [{"score": "clip_score"}, {"score": "random"}]
NORMSIM = {"score": "normsim"}


def test_a_combination_is_made_over_the_pool_and_chosen_from_what_is_left() -> None:
    other = np.array([0, 9, 1, 2, 3, 4, 5, 6, 7, 8], np.float32)
    columns = {"clip_score": FALLING, "random": other, "normsim": RISING}
    assert kept([{"score": "rank_sum", "of": TWO, "keep": 0.1}], **columns) == [2]
    steps = [{"score": "normsim", "target": "x", "keep": 0.8}, {"score": "rank_sum", "of": TWO, "count": 8}]
    assert kept(steps, **columns) == list(range(3, 11))
    heavy = {"score": "weighted_sum", "of": TWO, "weights": [1.0, 0.0], "keep": 0.3}
    assert kept([heavy], **columns) == [1, 2, 3]


def test_a_combination_within_a_subset_ranks_its_members_alone(tmp_path: Path) -> None:
    """Over all ten uid 1 has the largest sum, 9 + 3; among the last three of them (and 1) it has 3 + 0."""
    Subset(UIDS[[0, 7, 8, 9]]).save(tmp_path / "within.npy")
    other = np.array([3.5, 1, 2, 3, 0, 0, 0, 4, 5, 6], np.float32)
    first = np.array([9, 8, 8, 8, 8, 8, 8, 1, 2, 3], np.float32)
    step = {"score": "rank_sum", "of": TWO, "count": 1}
    assert kept([step], clip_score=first, random=other) == [1]
    assert kept([step], str(tmp_path / "within.npy"), clip_score=first, random=other) == [10]


def test_columns_are_computed_once_and_told_apart() -> None:
    recipe = ParsedRecipe.parse(
        [
            {"score": "normsim", "target": "a", "keep": 0.5},
            {"score": "rank_sum", "of": [NORMSIM | {"target": "b"}, NORMSIM | {"target": "a"}], "keep": 0.4},
            {"method": "soft_cap_sampling", "of": {"score": "weighted_sum", "of": TWO}, "count": 9},
        ]
    )  # fmt: skip
    assert [column.name for column in recipe.columns] == ["normsim", "normsim_2", "clip_score", "random"]
    assert [column.name for column in recipe.steps[1].of] == ["normsim_2", "normsim"]
    assert [step.name for step in recipe.steps] == ["normsim", "rank_sum", "soft_cap_sampling"]
    assert recipe.targets == ["a", "b"]
    assert (recipe.num_streamed, recipe.gathers_features, recipe.needs_features) == (3, False, True)


def test_a_recipe_survives_the_way_through_settings_and_json() -> None:
    recipe = ParsedRecipe.parse(
        [
            {"score": "clip_score", "keep": 0.9, "ties": "datacomp"},
            {"score": "rank_sum", "of": [NORMSIM | {"target": "a", "p": "inf"}, {"score": "random"}], "count": 7},
            {"method": "semdedup", "epsilon": 0.1},
            {"method": "hard_cap_sampling", "of": {"score": "random"}, "count": 30, "cap": 5},
        ]
    )  # fmt: skip
    selection = Selection.of(recipe, "l14")
    assert selection.check(None) == recipe
    assert ParsedRecipe.parse(json.loads(json.dumps(selection.steps))) == recipe
    json.dumps(recipe.as_dict())


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"score": "rank_sum", "keep": 0.1}, r"steps\[0\]: score rank_sum: of is a list of two or more scores"),
        ({"score": "rank_sum", "of": TWO[:1], "keep": 0.1}, "two or more"),
        ({"score": "rank_sum", "of": TWO[0], "keep": 0.1}, "of is a list of scores"),
        ({"score": "rank_sum", "of": [TWO[0], {"score": "x"}], "keep": 0.1}, r"of\[1\]: no score is named 'x'"),
        ({"score": "rank_sum", "of": [TWO[0], NORMSIM], "keep": 0.1}, r"of\[1\]: .*option target is missing"),
        ({"score": "weighted_sum", "of": TWO, "weights": [1.0], "keep": 0.1}, "1 weights for 2 columns"),
        ({"score": "weighted_sum", "of": TWO, "weights": ["a", "b"], "keep": 0.1}, "weights is a list, each a number"),
        ({"score": "clip_score", "of": TWO, "keep": 0.1}, "of goes with rank_sum, weighted_sum, not with clip_score"),
        ({"score": "clip_score", "name": 3, "keep": 0.1}, "name is a word"),
        ({"score": "clip_score", "method": "vas_d", "keep": 0.1}, "with a score"),
        ({"method": "vas_e", "keep": 0.1}, r"no method is named 'vas_e' \(there are clipcov"),
        ({"method": "vas_d"}, r"exactly one of keep, count \(got none\)"),
        ({"method": "vas_d", "threshold": 0.1}, "got threshold"),
        ({"method": "vas_d", "keep": 0.2, "ties": "datacomp"}, "ties: datacomp goes with keep"),
        ({"method": "vas_d", "keep": 0.2, "stpes": 3}, "method vas_d: no option stpes"),
        ({"method": "vas_d", "keep": 0.2, "steps": "many"}, "steps is a whole number of at least 1, got 'many'"),
        ({"method": "vas_d", "keep": 0.2, "of": TWO[0]}, "vas_d takes no score"),
        ({"method": "semdedup", "epsilon": 0.1, "keep": 0.5}, "semdedup decides itself how many stay"),
        ({"method": "semdedup"}, "option epsilon is missing"),
        ({"method": "soft_cap_sampling", "count": 5}, "soft_cap_sampling needs a score to choose by"),
    ],
)  # fmt: skip
def test_a_wrong_step_is_refused_with_its_place(step: dict[str, Any], words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        ParsedRecipe.parse([step])


def test_paths_are_changed_wherever_they_are() -> None:
    nested = {"score": "rank_sum", "of": [{"score": "normsim", "target": "a"}, {"score": "vas", "target_text": "b"}]}
    steps: list[Any] = [
        {"method": "hard_cap_sampling", "of": nested, "count": 3},
        {"method": "clipcov", "classes": "c", "keep": 0.5},
        {"score": "datacomp_caption", "language": False, "threshold": 1},
        "no step",
    ]
    for step in steps:
        map_paths(step, "/{}".format)
    assert [part.get("target", part.get("target_text")) for part in nested["of"]] == ["/a", "/b"]  # type: ignore[attr-defined]
    assert (steps[1]["classes"], steps[2]["language"]) == ("/c", False)


def test_nothing_may_come_after_repeats(tmp_path: Path) -> None:
    Subset(UIDS).save(tmp_path / "other.npy")
    sampling = {"method": "soft_cap_sampling", "of": {"score": "random"}, "count": 5}
    with pytest.raises(ClipsiftError, match=r"steps\[0\]: soft_cap_sampling repeats samples"):
        ParsedRecipe.parse([sampling, {"score": "random", "keep": 0.5}])
    with pytest.raises(ClipsiftError, match="repeats samples"):
        ParsedRecipe.parse([sampling], union=[str(tmp_path / "other.npy")])


def test_sampling_draws_from_what_is_left_and_is_fixed_by_the_seed() -> None:
    scores = np.where(np.arange(10) == 3, np.nan, FALLING)
    recipe = ParsedRecipe.parse(
        [
            {"score": "clip_score", "keep": 0.6},
            {"method": "hard_cap_sampling", "of": {"score": "random"}, "count": 12, "cap": 3},
        ]
    )
    subset, about = apply_recipe(recipe, UIDS, {"clip_score": FALLING, "random": scores}, seed=1)
    assert len(subset) == about["steps"][1]["num_kept"] == 12
    counts = subset.multiplicity(UIDS)
    assert counts.max() <= 3
    assert counts[[3, 6, 7, 8, 9]].tolist() == [0] * 5  # no score, or gone before
    again = [apply_recipe(recipe, UIDS, {"clip_score": FALLING, "random": scores}, seed=seed)[0] for seed in (1, 2)]
    assert subset == again[0] != again[1]


def test_a_method_that_cannot_be_satisfied_says_so() -> None:
    step = {"method": "hard_cap_sampling", "of": {"score": "random"}, "count": 50, "cap": 1}
    with pytest.raises(ClipsiftError, match="selection: hard_cap_sampling: cap 1 on 10 finite scores leaves no room"):
        apply_recipe(ParsedRecipe.parse([step]), UIDS, {"random": FALLING})


def test_a_new_method_is_one_function() -> None:
    @register_method("every_other")
    def method(candidates: Candidates, size: int, first: int = 0) -> torch.Tensor:
        return (torch.arange(len(candidates)) % 2 == first) & (torch.arange(len(candidates)) < 2 * size)

    try:
        assert kept([{"method": "every_other", "keep": 0.3, "first": 1}]) == [2, 4, 6]
        with pytest.raises(ValueError, match="registered twice"):
            register_method("every_other")(method)
    finally:
        del METHODS["every_other"]


CLIP = {"score": "metadata_column", "column": "clip_l14_similarity_score", "keep": 0.45}


@pytest.mark.parametrize(
    ("first", "steps", "expected"), [([CLIP], 10, "vasd_clip0.45_vas0.3_T10"), ([], 10, "vasd_clip1_vas0.3_T10")]
)
def test_vas_d_chooses_the_reference_uids(
    bundle: Bundle, tmp_path: Path, first: list[dict[str, Any]], steps: int, expected: str
) -> None:
    recipe = Recipe([*first, {"method": "vas_d", "keep": 0.3, "steps": steps}])
    subset = recipe.run(str(bundle.folder / "pool"), "l14", tmp_path)
    assert np.array_equal(subset.uids, bundle.array(f"golden/sets/{expected}.npy"))
    about = read_json(tmp_path / "selection" / "subset.json")
    assert about["steps"][-1]["score"] == "vas_d"
    assert about["num_kept"] == 903


def test_semdedup_and_clipcov_from_the_pool(bundle: Bundle, tmp_path: Path) -> None:
    image, text = bundle.features("l14_img"), bundle.features("l14_txt")
    centroids = str(bundle.folder / "semdedup/centroids.npy")
    steps: list[dict[str, Any]] = [{"method": "semdedup", "epsilon": 0.08, "centroids": centroids}]
    pool = str(bundle.folder / "pool")
    expected = bundle.array("semdedup/keep_hard_eps0.08.npy")
    assert np.array_equal(Recipe(steps).run(pool, "l14").uids, bundle.selected(expected))

    classes = bundle.folder / "targets/imagenet_l14_txt.npy"
    steps.append({"method": "clipcov", "count": 100, "classes": str(classes), "block": 20})
    rows = torch.from_numpy(np.flatnonzero(expected))
    texts = torch.from_numpy(np.load(classes))
    chosen = rows[clipcov(image[rows], text[rows], texts, 100, 20)]
    assert np.array_equal(Recipe(steps).run(pool, "l14").uids, bundle.selected(chosen.numpy()))

    by_kmeans = [{"method": "semdedup", "epsilon": 0.35, "clusters": 30, "keep_in_pair": "easy"}]
    few = Recipe(by_kmeans).run(pool, "l14")
    assert 0 < len(few) < 3011
    assert few == Recipe(by_kmeans).run(pool, "l14")


def pool_files(folder: Path, sizes: list[int]) -> tuple[list[FeatureFile], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(sum(sizes), 6, generator=generator).half() for _ in range(2))
    image[2], text[-5] = float("nan"), 0
    start = 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        uids = parse_uids([f"{row:x}" for row in range(rows.start, rows.stop)])
        write_feature_file(folder, "x", str(number), uids, ["a"] * size, image[rows].numpy(), text[rows].numpy())
        start += size
    return [FeatureFile(str(folder / f"{number}.parquet"), "x") for number in range(len(sizes))], image, text


def test_features_are_gathered_from_many_files_without_the_unusable(tmp_path: Path) -> None:
    files, image, text = pool_files(tmp_path, [4, 3, 5])
    source = PoolFeatures(files, torch.device("cpu"), {"t": image}.__getitem__, tmp_path)
    rows = np.array([0, 2, 3, 7, 8, 11])
    found, usable = source.candidates(rows, ("image", "text"), seed=5)
    assert usable.tolist() == [True, False, True, False, True, True]
    good = torch.from_numpy(rows[usable])
    assert torch.equal(found.image, image[good])
    assert torch.equal(found.text, text[good])
    assert found.image.dtype == torch.float16
    assert (found.seed, found.target("t") is image) == (5, True)
    only, usable = source.candidates(rows, ("image",), seed=5)
    assert usable.tolist() == [True, False, True, True, True, True]  # the text is not looked at
    assert only.text.shape == (5, 0)
    finite = torch.arange(12) != 2
    torch.testing.assert_close(source.moment(), second_moment(image[finite]), atol=1e-6, rtol=1e-6)
    source.close()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{n}.{kind}" for n in range(3) for kind in ("npz", "parquet")
    }


def test_files_of_different_width_are_refused(tmp_path: Path) -> None:
    files, *_ = pool_files(tmp_path, [6])
    uids = parse_uids(["a", "b"])
    write_feature_file(tmp_path, "x", "1", uids, ["a"] * 2, np.ones((2, 5)), np.ones((2, 5)))
    files.append(FeatureFile(str(tmp_path / "1.parquet"), "x"))
    source = PoolFeatures(files, torch.device("cpu"), {}.__getitem__, tmp_path)
    with pytest.raises(ClipsiftError, match="image features of the pool's files differ in width"):
        source.candidates(np.arange(8), ("image",), 0)
