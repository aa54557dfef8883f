"""Two and three processes give what one gives, also where a rank has no sample or meets the only broken one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate
from helpers.colours import picture, sample, toy_clip, write_flickr
from helpers.evaluation_sets import write_task
from helpers.machines.ranks import free_port


def write_data(data: Path) -> None:
    write_task(data / TASKS["cifar10"].folder, [sample("red", 0)])  # rank 1 has none
    write_task(data / TASKS["stl10"].folder, [sample(colour, 1) for colour in ("green", "red", "green")], num_shards=2)
    broken = {"cls": b"0", "png": picture("red")[:50]}
    write_task(data / TASKS["mnist"].folder, [sample("red", 0), broken, sample("red", 0)])  # only rank 1 sees it
    write_task(data / TASKS["gtsrb"].folder, [sample("red", 0), sample("nan", 0)])
    geode = [sample("red", 0, 0, 3), sample("red", 1, 0, 3), sample("green", 1, 2, 3), sample("green", 1, 4, 3)]
    write_task(data / TASKS["fairness/geode"].folder, geode)
    rows = [{"filename": f"{colour}.jpg", "raw": [colour, "red"]} for colour in ("red", "green", "blue")]
    write_flickr(data, rows)


def run(data: Path, out: Path, machine: Machine, report: Path, batch_size: int = 1) -> None:
    try:
        evaluate(toy_clip(), data, out, batch_size=batch_size, workers=0, machine=machine)
        message = ""
    except ClipsiftError as error:
        message = str(error)
    report.write_text(message)


def on_rank(rank: int, port: int, folder: Path, ranks: int) -> None:
    settings = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "NODE_RANK": 0}
    os.environ |= {name: str(value) for name, value in settings.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    machine = launch(Machine(accelerator="cpu", devices=ranks))
    run(folder / "data", folder / "many", machine, folder / f"error.{rank}", batch_size=ranks - 1)


def outcome(out: Path) -> list[str]:
    lines = (out / "eval_results.jsonl").read_text().splitlines()
    results = [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]
    return list(map(str, results))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes(ranks: int, tmp_path: Path, machine: Machine) -> None:
    write_data(tmp_path / "data")
    torch.multiprocessing.spawn(on_rank, (free_port(), tmp_path, ranks), nprocs=ranks)
    run(tmp_path / "data", tmp_path / "one", machine, tmp_path / "error")
    assert outcome(tmp_path / "many") == outcome(tmp_path / "one")
    assert len(outcome(tmp_path / "one")) == 4
    message = (tmp_path / "error").read_text()
    assert "2 of 6 evaluation tasks failed" in message
    assert {(tmp_path / f"error.{rank}").read_text() for rank in range(ranks)} == {message}
