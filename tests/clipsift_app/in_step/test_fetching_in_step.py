"""``evaluate --download`` under a launcher: one process fetches, the others wait for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clipsift_app.verbs import evaluate
from clipsift_common.distributed import rank
from clipsift_common.errors import ClipsiftError
from helpers.machines.fake_group import FakeGroup, machine_here


def test_one_fetches_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[tuple[int, list[str], str]] = []

    def download(tasks: list[str], data: str) -> None:
        time.sleep(0.1)
        fetched.append((rank(), tasks, data))

    monkeypatch.setattr(evaluate, "launch", lambda machine: machine_here())
    monkeypatch.setattr(evaluate, "download", download)
    arguments = ["--download", f"--data={tmp_path}", "--tasks=cifar10"]
    FakeGroup[None](8).run(lambda: evaluate.run(arguments))
    assert fetched == [(0, ["cifar10"], str(tmp_path))]

    def fails(tasks: list[str], data: str) -> None:
        raise ClipsiftError("the hub is out of reach")

    monkeypatch.setattr(evaluate, "download", fails)
    with pytest.raises(ClipsiftError, match="out of reach"):
        FakeGroup[None](8).run(lambda: evaluate.run(arguments))
