"""Columns are computed once, from the features they need and no others, and found again by another recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.machine import Machine
from selection.features.files import FeatureFile, write_feature_file
from selection.pool.location import Pool
from selection.recipe.parsed import ParsedRecipe
from selection.scoring import columns
from selection.scoring.columns import ScorePlan, column_keys, write_scores
from selection.scoring.files import lost_rows_of
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset
from selection.uids import parse_uids

CLIP = {"score": "clip_score", "keep": 0.5}
NEAR = {"score": "normsim", "target": "t", "keep": 0.5}


@pytest.fixture
def files(tmp_path: Path) -> list[FeatureFile]:
    rng = np.random.default_rng(0)
    for number, count in enumerate((20, 12)):
        image, text = (rng.standard_normal((count, 4)) for _ in range(2))
        image /= np.linalg.norm(image, axis=1, keepdims=True)
        text /= np.linalg.norm(text, axis=1, keepdims=True)
        text[5] = np.nan
        uids = parse_uids([f"{number}{row:04x}" for row in range(count)])
        write_feature_file(tmp_path / "metadata", "l14", f"{number}", uids, [""] * count, image, text)
    return [FeatureFile(str(tmp_path / "metadata" / f"{number}.parquet"), "l14") for number in range(2)]


def plan_of(tmp_path: Path, *steps: dict[str, Any], seed: int = 0) -> ScorePlan:
    columns = ParsedRecipe.parse(list(steps)).columns
    target = torch.nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    keys = column_keys(columns, seed, {"t": "print"})
    return ScorePlan(columns, keys, tmp_path / "cache", seed, torch.device("cpu"), lambda _: target, 0)


def columns_of(folder: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(folder / "0.parquet")
    return {name: table[name].to_numpy() for name in table.column_names if name != "uid"}


def test_another_recipe_of_the_same_scores_computes_nothing(
    files: list[FeatureFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_scores(files, plan_of(tmp_path, CLIP, NEAR), tmp_path / "one")
    monkeypatch.setattr(columns, "_features", lambda *_: pytest.fail("features were read again"))
    again = write_scores(files, plan_of(tmp_path, NEAR | {"keep": 0.1}, CLIP | {"name": "other"}), tmp_path / "two")
    one, two = columns_of(tmp_path / "one"), columns_of(tmp_path / "two")
    np.testing.assert_array_equal(one["normsim"], two["normsim"])
    np.testing.assert_array_equal(one["clip_score"], two["other"])
    # What cannot be used is counted alike, whether it was met now or in an earlier run.
    assert first.as_dict() == again.as_dict()
    assert first.lost == {"bad_features": 2}
    assert np.isnan(one["clip_score"]).nonzero()[0].tolist() == [5]


def test_columns_of_other_seeds_and_options_are_computed(files: list[FeatureFile], tmp_path: Path) -> None:
    step = {"score": "random", "keep": 0.5}
    write_scores(files, plan_of(tmp_path, step), tmp_path / "one")
    write_scores(files, plan_of(tmp_path, step, seed=1), tmp_path / "two")
    assert not np.array_equal(columns_of(tmp_path / "one")["random"], columns_of(tmp_path / "two")["random"])
    write_scores(files, plan_of(tmp_path, NEAR), tmp_path / "three")
    write_scores(files, plan_of(tmp_path, NEAR | {"p": "inf"}), tmp_path / "three")  # stale files are replaced
    assert columns_of(tmp_path / "three")["normsim"].max() <= 1


def test_only_the_features_that_are_needed_are_read(
    files: list[FeatureFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FeatureFile, "text", lambda _: pytest.fail("nobody needs the texts"))
    report = write_scores(files, plan_of(tmp_path, NEAR), tmp_path / "one")
    assert report.num_lost == 0
    assert np.isfinite(columns_of(tmp_path / "one")["normsim"]).all()


def test_float16_features_give_the_scores_of_float32(files: list[FeatureFile], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, CLIP)
    write_scores(files, plan, tmp_path / "one")
    image, text = (part.astype(np.float32) for part in (files[0].image(), files[0].text()))
    np.testing.assert_array_equal(columns_of(tmp_path / "one")["clip_score"], (image * text).sum(1).astype(np.float32))


def test_a_damaged_score_file_is_made_again(files: list[FeatureFile], tmp_path: Path) -> None:
    plan = plan_of(tmp_path, CLIP)
    write_scores(files, plan, tmp_path / "one")
    path = tmp_path / "one" / "0.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert lost_rows_of(path, plan.parent(plan.of_block(files[:1]))) is None
    write_scores(files, plan, tmp_path / "one")
    assert path.read_bytes() == whole


def test_what_a_score_refuses_names_the_file(files: list[FeatureFile], tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path, NEAR), target=lambda name: torch.zeros(0, 4))
    with pytest.raises(ClipsiftError, match=r"metadata/0\.parquet: normsim: target t is empty"):
        write_scores(files, plan, tmp_path / "one")


def test_recipes_that_look_at_all_samples_go_through_a_run(files: list[FeatureFile], tmp_path: Path) -> None:
    of = [{"score": "clip_score"}, {"score": "random"}]
    steps = [{"score": "rank_sum", "of": of, "keep": 0.5}, {"method": "vas_d", "count": 4, "steps": 2}]
    pool = Pool(str(tmp_path / "metadata"))
    machine = Machine(accelerator="cpu", devices=1)
    selection = Selection(None, "l14", steps)
    path = Selector(selection, pool, tmp_path / "run", tmp_path / "cache", machine=machine, max_loss=0.1).run()
    assert len(Subset.load(path)) == 4
    about = read_json(path.with_suffix(".json"))
    assert [step["num_kept"] for step in about["steps"]] == [16, 4]
    assert sorted(pq.read_schema(tmp_path / "run/selection/scores/0.parquet").names) == ["clip_score", "random", "uid"]
