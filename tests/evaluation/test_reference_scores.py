"""Our scores against those of DataComp's own code (the reference bundle)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from clipsift_common.clip import LoadedCLIP
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate, summarise

# One of each kind, with what is awkward in them: a blank class, acc5 without meaning, empty groups, several captions,
# images of all modes, no ``cls`` members.
A_FEW = [
    "vtab/clevr_closest_object_distance",
    "vtab/kitti_closest_vehicle_distance",
    "country211",
    "wilds/iwildcam",
    "wilds/fmow",
    "fairness/dollar_street",
    "fairness/utkface",
    "retrieval/flickr_1k_test_image_text_retrieval",
    "misc/winogavil",
]


def check_metrics(ours: Mapping[str, float | None], theirs: Mapping[str, float | None]) -> None:
    """Same names in the same order, same values to 1e-6, None and NaN in the same places."""
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        mine = ours[name]
        if value is None or mine is None:
            assert mine is value, name
        else:
            assert (math.isnan(mine) and math.isnan(value)) or mine == pytest.approx(value, abs=1e-6), name


def test_a_few(reference: Path, reference_clip: LoadedCLIP, reference_results: dict, machine: Machine) -> None:
    results = evaluate(reference_clip, reference / "eval", tasks=A_FEW, workers=0, machine=machine)
    assert {result["key"] for result in results} == set(A_FEW)
    for result in results:
        expected = reference_results[result["key"]]
        assert result["dataset"] == expected["dataset"]
        check_metrics(result["metrics"], expected["metrics"])


@pytest.mark.parametrize("variant", ["clevr_distance_blank_kept", "fmow_without_other_region"])
def test_corrected_rules(variant: str, reference: Path, reference_clip: LoadedCLIP, machine: Machine) -> None:
    expected = json.loads((reference / "golden_alt.json").read_text())[variant]
    [result] = evaluate(
        reference_clip, reference / "eval", tasks=[expected["key"]], rules="corrected", workers=0, machine=machine
    )
    check_metrics(result["metrics"], expected["metrics"])


def test_aggregates(reference: Path, reference_results: dict[str, dict[str, Any]]) -> None:
    expected = json.loads((reference / "golden_aggregate.json").read_text())
    summary = summarise(list(reference_results.values()))
    assert summary["groups"] | {"Average": summary["average"]} == pytest.approx(expected, abs=1e-12)
    assert summary["imagenet"] == summary["groups"]["ImageNet"]
    assert (summary["num_scored"], summary["missing"], len(summary["tasks"])) == (38, [], 40)


@pytest.mark.slow
def test_all(reference: Path, reference_clip: LoadedCLIP, reference_results: dict, machine: Machine) -> None:
    results = evaluate(reference_clip, reference / "eval", batch_size=32, workers=2, machine=machine)
    assert [result["key"] for result in results] == list(TASKS) == list(reference_results)
    for result in results:
        check_metrics(result["metrics"], reference_results[result["key"]]["metrics"])
    expected = json.loads((reference / "golden_aggregate.json").read_text())
    assert summarise(results)["average"] == pytest.approx(expected["Average"], abs=1e-6)
