"""A disk that fills up while anything is written ends both ranks with a line; what was computed is not lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.machines.forked import errors
from helpers.machines.ranks import script_environment
from helpers.workspace import write_workspace

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("small_disk", ["96m"], indirect=True)]

SCRIPT = Path(__file__).with_name("full_disks.py")
NAMES = {
    "config": "run/config.yaml",
    "index": ".npy",
    "teacher": "last.ckpt",
    "features": ".npz",
    "scores": ".parquet",
    "subset": "selection/subset.npy",
    "metrics": "training/metrics.csv",
    "checkpoint": "training/last.ckpt",
    "weights": "model/open_clip_model.safetensors",
    "results": "eval_results.jsonl",
    "report": "report/",
}


def test_every_kind_of_file(tmp_path: Path, small_disk: Path, record_property: Callable[[str, object], None]) -> None:
    config = write_workspace(tmp_path)
    values = yaml.safe_load(config.read_text())
    values["data"] |= {"samples_seen": 64, "workers": 0}
    values["selection"]["teacher"]["train"]["samples_seen"] = 32
    config.write_text(yaml.safe_dump(values))
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(small_disk)]
    subprocess.run(command, env=script_environment(), check=True, timeout=1800)
    ends: dict[str, dict[str, Any]] = json.loads((tmp_path / "ends.json").read_text())
    for what, name in NAMES.items():
        end = ends[what]
        assert end["statuses"] == [1, 1], (what, end)
        assert end["seconds"] < 60, (what, end)
        record_property(what, end["seconds"])
        said = [errors(text) for text in end["said"]]
        assert [len(lines) for lines in said] == [1, 1], (what, end)
        full = [line for (line,) in said if "cannot be written (" in line]
        assert any(name in line for line in full), (what, end)
        assert all(line in full or "another rank did" in line for (line,) in said), (what, end)
        assert not any("Traceback" in text for text in end["said"]), (what, end)
    # What was stopped so often goes on to its end, and selects what an undisturbed run does.
    assert ends["nothing"]["statuses"] == [0, 0], ends["nothing"]
    assert ends["elsewhere"]["statuses"] == [0, 0], ends["elsewhere"]
    subsets = [folder / "run" / "selection" / "subset.npy" for folder in (small_disk, tmp_path)]
    assert subsets[0].read_bytes() == subsets[1].read_bytes()
    log = ends["log"]
    assert log["statuses"] == [1, 1], log
    (line,) = errors(log["said"][0])  # on stdout, and the one of both that is full is named
    assert f"{small_disk / 'log'}: cannot be written (No space left on device)" in line, log
