"""The evaluation on 8 ranks: they call the same collectives, each opens the files of its samples, all get the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from evaluation import TASKS, evaluate
from evaluation.class_prompts import class_prompt_features
from helpers.colours import picture, sample, toy_clip, write_flickr
from helpers.evaluation_sets import write_archive, write_task
from helpers.machines.fake_group import FakeGroup, machine_here

SHARDS = 16
WINOGAVIL = TASKS["misc/winogavil"]


def write_data(data: Path) -> None:
    """A task of each kind: of more tars than ranks, of fewer samples than ranks, of more batches on one rank than on
    another, one whose only broken sample one rank meets, one that cannot be opened."""
    labelled = [sample(("red", "green", "blue")[number % 3], number % 3) for number in range(2 * SHARDS)]
    write_task(data / TASKS["cifar10"].folder, labelled, num_shards=SHARDS)
    write_task(data / TASKS["stl10"].folder, [sample("red", 0), sample("green", 0)], num_shards=2)
    broken = {"cls": b"0", "png": picture("red")[:50]}
    write_task(data / TASKS["mnist"].folder, [*labelled[:9], broken, *labelled[12:]], num_shards=SHARDS)
    write_task(data / TASKS["gtsrb"].folder, labelled, num_shards=2)
    (data / TASKS["gtsrb"].folder / "test" / "1.tar").unlink()
    write_task(data / TASKS["vtab/svhn"].folder, labelled[:25], num_shards=SHARDS)
    geode = [sample("red", 0, 0, 3), sample("red", 1, 0, 3), sample("green", 1, 2, 3), sample("green", 1, 4, 3)]
    write_task(data / TASKS["fairness/geode"].folder, geode * 4, num_shards=SHARDS)
    write_flickr(data, [{"filename": f"{colour}.jpg", "raw": [colour, "red"]} for colour in ("red", "green", "blue")])
    images = {f"images/{colour}.jpg": picture(colour) for colour in ("red", "green", "blue", "white")}
    games = [{"cue": "red", "candidates": ["red", "green", "blue", "white"], "associations": ["red"]}]
    folder = data / WINOGAVIL.folder
    write_archive(folder, WINOGAVIL.options["table"], games, WINOGAVIL.options["images"], images)


def outcome(data: Path, out: Path) -> str:
    with pytest.raises(ClipsiftError) as caught:
        evaluate(toy_clip(), data, out, batch_size=3, workers=0, machine=machine_here())
    return str(caught.value)


def results(out: Path) -> list[str]:
    lines = (out / "eval_results.jsonl").read_text().splitlines()
    return [str({name: value for name, value in json.loads(line).items() if name != "seconds"}) for line in lines]


def test_all_kinds_of_tasks(tmp_path: Path) -> None:
    write_data(tmp_path)
    alone = FakeGroup(1).run(lambda: outcome(tmp_path, tmp_path / "1"))
    group: FakeGroup[str] = FakeGroup(8, tmp_path)
    assert group.run(lambda: outcome(tmp_path, tmp_path / "8")) == alone * 8
    assert "2 of 8 evaluation tasks failed" in alone[0]
    assert results(tmp_path / "8") == results(tmp_path / "1")
    group.check_files(readers=2)


def test_class_prompts() -> None:
    def features() -> torch.Tensor:
        return class_prompt_features("vtab/caltech101", toy_clip(), torch.device("cpu"))

    expected, found = features(), FakeGroup[torch.Tensor](8).run(features)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)
    assert all(torch.equal(other, found[0]) for other in found)
