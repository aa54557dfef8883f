"""evaluate() on toy tasks: scores by hand, failures, resume."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate, summarise
from evaluation.results import ResultStore
from evaluation.table import format_table
from helpers.colours import picture, sample, toy_clip
from helpers.evaluation_sets import write_task


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CIFAR-10: 2 of 3 right. STL-10: all right. GeoDE: region 0 has 1 of 2, region 2 has 1 of 1."""
    folder = tmp_path / "data"
    write_task(folder / TASKS["cifar10"].folder, [sample("red", 0), sample("green", 1), sample("blue", 0)])
    write_task(folder / TASKS["stl10"].folder, [sample("blue", 2)] * 5, num_shards=2)
    geode = [sample("red", 0, 0, 3), sample("red", 1, 0, 3), sample("green", 1, 2, 3)]
    write_task(folder / TASKS["fairness/geode"].folder, geode)
    return folder


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 2), (100, 3)])
def test_scores_by_hand(batch_size: int, workers: int, data: Path, machine: Machine) -> None:
    results = evaluate(toy_clip(), data, batch_size=batch_size, workers=workers, machine=machine)
    cifar, stl, geode = results
    assert [result["dataset"] for result in results] == ["CIFAR-10", "STL-10", "GeoDE"]
    assert cifar["metrics"] == {
        "acc1": 2 / 3,
        "acc5": None,
        "mean_per_class_recall": pytest.approx((1 / 2 + 1) / 2),
        "main_metric": 2 / 3,
    }
    assert (cifar["num_samples"], cifar["random"]) == (3, 1 / 3)
    assert stl["metrics"]["main_metric"] == 1
    assert math.isnan(geode["metrics"].pop("acc_region:1"))
    expected = {"acc_region:0": 0.5, "count_region:0": 2, "count_region:1": 0, "acc_region:2": 1, "acc_wg": 0.5}
    assert expected.items() <= geode["metrics"].items()


def test_blank_class_is_dropped_or_kept_by_the_rules(tmp_path: Path, machine: Machine) -> None:
    key = "vtab/clevr_closest_object_distance"
    samples = [sample("red", 0), sample("white", 1), sample("blue", 2)]
    write_task(tmp_path / TASKS[key].folder, samples, classnames=["red", "", "blue"])
    scores = {}
    for rules in ("leaderboard", "corrected"):
        [result] = evaluate(toy_clip(), tmp_path, tasks=[key], rules=rules, workers=0, machine=machine)
        scores[rules] = result["metrics"]["acc1"]
    # Dropped: the columns are red and blue; blue pictures go to column 1, their label is 2.
    # Kept: right. White is nearer to red (the first of two equals) than to the nameless class either way.
    assert scores == {"leaderboard": pytest.approx(1 / 3), "corrected": pytest.approx(2 / 3)}


def test_a_failing_task_stops_no_other(data: Path, tmp_path: Path, machine: Machine) -> None:
    broken = data / TASKS["imagenet1k"].folder
    write_task(broken, [sample("red", 0), {"cls": b"0", "png": picture("red")[:50]}])
    write_task(data / TASKS["mnist"].folder, [sample("red", 0)] * 2 + [sample("nan", 0)] * 2)
    with pytest.raises(ClipsiftError) as error:
        evaluate(toy_clip(), data, tmp_path / "out", batch_size=1, workers=2, machine=machine)
    assert "2 of 5 evaluation tasks failed" in str(error.value)
    assert f"imagenet1k: {broken}/test/0.tar sample s0000001: broken_image" in str(error.value)
    assert "mnist" in str(error.value)
    assert "sample s0000002 has image features that are not finite" in str(error.value)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [task["key"] for task in summary["tasks"]] == ["cifar10", "stl10", "fairness/geode"]
    assert (summary["num_scored"], summary["average"], len(summary["missing"])) == (3, None, 35)
    assert {"imagenet1k", "mnist"} <= set(summary["missing"])


def test_results_that_cannot_be_kept_end_the_evaluation(
    data: Path, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = toy_clip()

    def full(self: ResultStore, folder: Path, result: object) -> None:
        raise ClipsiftError(f"{folder}: cannot be written")

    monkeypatch.setattr(ResultStore, "_write", full)
    with pytest.raises(ClipsiftError, match=rf"^{tmp_path / 'out'}: cannot be written$"):
        evaluate(clip, data, tmp_path / "out", workers=0, machine=machine)
    assert clip.model.num_images == 3  # the first task's: no other was tried


def test_broken_weights_are_named(data: Path, machine: Machine) -> None:
    clip = toy_clip()
    clip.model.scale.data.fill_(math.nan)
    with pytest.raises(ClipsiftError, match="cifar10: the text features of 'red' are not finite"):
        evaluate(clip, data, tasks=["cifar10"], workers=0, machine=machine)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rules": "mine"}, "rules: mine"),
        ({"precision": "fp8"}, "precision: fp8"),
        ({"tasks": ["nothing*"]}, "nothing"),
        ({"tasks": ["mnist"]}, "mnist: .* does not exist"),
        ({"data": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_refuses(settings: dict, message: str, data: Path, machine: Machine) -> None:
    with pytest.raises(ClipsiftError, match=message):
        evaluate(**{"model": toy_clip(), "data": data, "workers": 0, "machine": machine} | settings)


def test_resume_runs_no_task_twice(data: Path, tmp_path: Path, machine: Machine) -> None:
    out = tmp_path / "out"
    evaluate(toy_clip(), data, out, tasks=["cifar10"], workers=0, machine=machine)
    with open(out / "eval_results.jsonl", "a") as handle:
        handle.write('{"key": "stl10", "dataset": "STL-10", "metr')  # the kill came here
    clip = toy_clip()
    first = evaluate(clip, data, out, workers=0, machine=machine)
    assert clip.model.num_images == 5 + 3  # not CIFAR-10's 3
    lines = (out / "eval_results.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["cifar10", "stl10", "fairness/geode"]
    again = evaluate(clip, data, out, workers=0, machine=machine)
    assert clip.model.num_images == 8
    assert str(again) == str(first)


@pytest.mark.parametrize("change", [{"rules": "corrected"}, {"precision": "amp"}, {"model": toy_clip("other")}])
def test_resume_refuses_to_mix(change: dict, data: Path, tmp_path: Path, machine: Machine) -> None:
    settings = {"model": toy_clip(), "data": data, "out": tmp_path / "out", "workers": 0, "machine": machine}
    evaluate(**settings | {"tasks": ["cifar10"]})
    before = (tmp_path / "out" / "eval_results.jsonl").read_bytes()
    with pytest.raises(ClipsiftError, match="holds results with"):
        evaluate(**settings | change)
    assert (tmp_path / "out" / "eval_results.jsonl").read_bytes() == before
    (tmp_path / "out" / "summary.json").unlink()
    with pytest.raises(ClipsiftError, match=r"has no summary\.json"):
        evaluate(**settings)


def test_mixed_precision_runs(data: Path, machine: Machine) -> None:
    for rules in ("leaderboard", "corrected"):
        [result] = evaluate(toy_clip(), data, None, ["cifar10"], rules, "amp", workers=0, machine=machine)
        assert result["metrics"]["acc1"] == 2 / 3


def fake_results(count: int) -> list[dict]:
    return [
        {"key": task.key, "dataset": task.name, "metrics": {"main_metric": None if task.main_metric is None else 0.5}}
        for task in list(TASKS.values())[:count]
    ]


def test_no_average_over_fewer_than_38() -> None:
    summary = summarise(fake_results(37))
    assert (summary["num_scored"], summary["average"], summary["mean_of_scored"]) == (37, None, 0.5)
    assert summary["missing"] == ["fairness/geode"]
    assert summary["groups"]["VTAB"] == 0.5
    assert summarise(fake_results(38))["average"] == 0.5
    assert summarise([])["mean_of_scored"] is None
    missing_value = fake_results(40)
    missing_value[0]["metrics"]["main_metric"] = math.nan
    summary = summarise(missing_value)
    assert (summary["average"], summary["groups"]["VTAB"], summary["missing"]) == (None, None, ["vtab/caltech101"])


def test_a_task_twice_is_refused() -> None:
    with pytest.raises(ClipsiftError, match="cifar10 is there twice"):
        summarise([*fake_results(40), fake_results(2)[1]])


def test_table_says_over_how_many() -> None:
    console = Console(width=200, record=True)
    console.print(format_table(summarise(fake_results(12), {"rules": "leaderboard", "precision": "fp32"})))
    text = console.export_text()
    assert "11 of 38 tasks" not in text
    assert "12 of 38 tasks" in text
    assert "Caltech-101" in text
    assert "mean of those" in text
