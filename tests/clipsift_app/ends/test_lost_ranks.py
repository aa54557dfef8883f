"""Whatever ends one rank, the other says one line and ends within a minute, without a launcher that would kill it."""

from __future__ import annotations

import json
import signal
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

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("lost_ranks.py")
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    config = write_workspace(folder)
    values = yaml.safe_load(config.read_text())
    del values["selection"]
    values["data"] |= {"samples_seen": 16 * 5000, "workers": 0}
    values["checkpoint"] = {"steps": 100_000}
    config.write_text(yaml.safe_dump(values))
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], env=script_environment(), check=True, timeout=1800)
    return folder


@pytest.fixture(scope="module")
def ends(workspace: Path) -> dict[str, dict[str, Any]]:
    return json.loads((workspace / "ends.json").read_text())


def check(text: str, words: str) -> None:
    (line,) = errors(text)
    assert words in line
    assert "Traceback" not in text


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("other", ["killed", "stuck"])  # who is stuck waits where it is not told, as in NCCL
def test_a_rank_is_killed(ends: dict[str, dict[str, Any]], killed: int, other: str, record_property: Record) -> None:
    end = ends[f"{other}{killed}"]
    record_property("seconds", end["seconds"])
    assert (end["statuses"][killed], end["statuses"][1 - killed]) == (-signal.SIGKILL, 1), end
    assert end["seconds"] < 60
    check(end["said"][1 - killed], "ended because another rank did")


@pytest.mark.parametrize(
    ("rank", "how", "words"),
    [
        (0, "full", "metrics.csv: cannot be written (No space left on device)"),
        (1, "out of memory", "rank 1: out of memory (CUDA out of memory"),
        (0, "backward", "out of memory (CUDA out of memory"),
        (1, "backward", "rank 1: out of memory (CUDA out of memory"),
    ],
)
def test_a_rank_fails(
    ends: dict[str, dict[str, Any]], rank: int, how: str, words: str, record_property: Record
) -> None:
    end = ends[f"{how} on {rank}"]
    record_property("seconds", end["seconds"])
    assert end["statuses"] == [1, 1], end
    assert end["seconds"] < 60
    check(end["said"][rank], words)
    check(end["said"][1 - rank], "ended because another rank did")


@pytest.mark.parametrize("number", [0, 1])
def test_a_second_start_of_a_run_at_work_is_refused(
    ends: dict[str, dict[str, Any]], workspace: Path, number: int
) -> None:
    second = ends[f"second{number}"]
    assert second["statuses"] == [1], second
    check(second["said"][0], f"{workspace / f'killed{1 - number}'}: another start is at work in it")
