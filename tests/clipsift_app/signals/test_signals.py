"""A signal at any rank, in any stage, ends all ranks soon with its status, and the same command goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from clipsift_common.files import file_fingerprint
from helpers import program
from helpers.machines import signal_at
from helpers.machines.launchers import open_mpi
from helpers.machines.ranks import TESTS, free_port
from helpers.workspace import write_workspace

pytestmark = pytest.mark.slow

WORDS = "stopped by a signal"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signals")
    values = yaml.safe_load(write_workspace(folder).read_text())
    values["validation"] = {"tasks": ["imagenet1k"], "every_steps": 7}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def launch(workspace: Path, out: Path, stage: str, number: str, ranks: str) -> tuple[list[int], list[str], float]:
    """Statuses and last words of both ranks, and the seconds from the signal to the end of the second."""
    place = workspace / f"{out.name}-{stage}"
    place.mkdir()
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    path = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, signal_at.__file__, str(place), stage, number, ranks]
    command += ["reproduce", f"--config={workspace / 'config.yaml'}", f"--out={out}"]
    processes = [
        subprocess.Popen(
            command,
            env=program.environment() | path | open_mpi(rank, 2) | meeting,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    sent = place / "sent"
    seconds = time.time() - sent.stat().st_mtime if sent.exists() else 0.0
    return [process.returncode for process in processes], said, seconds


def outcome(out: Path) -> tuple[str, list[str], list[str], list[float]]:
    """Subset, rows of metrics (less what tells the time) and of validation, scores."""
    metrics = [line.split(",")[:2] for line in (out / "training/metrics.csv").read_text().splitlines()]
    validation = (out / "training/validation.csv").read_text().splitlines()
    results = [json.loads(line) for line in (out / "evaluation/eval_results.jsonl").read_text().splitlines()]
    scores = [result["metrics"]["main_metric"] for result in results]
    return file_fingerprint(out / "selection/subset.npy"), [" ".join(row) for row in metrics], validation, scores


@pytest.fixture(scope="module")
def uninterrupted(workspace: Path) -> tuple[str, list[str], list[str], list[float]]:
    out = workspace / "uninterrupted"
    statuses, said, _ = launch(workspace, out, "none", "SIGTERM", "0")
    assert statuses == [0, 0], said
    return outcome(out)


@pytest.mark.parametrize(
    ("ranks", "number", "status"), [("0", "SIGTERM", 75), ("1", "SIGUSR1", 75), ("0,1", "SIGINT", 130)]
)
def test_any_stage_any_rank(
    workspace: Path, uninterrupted: tuple[str, list[str], list[str], list[float]], ranks: str, number: str, status: int
) -> None:
    """One run is stopped once in each of its stages."""
    out = workspace / f"ranks{ranks}"
    for stage in signal_at.STAGES:
        statuses, said, seconds = launch(workspace, out, stage, number, ranks)
        assert statuses == [status, status], (stage, said)
        assert seconds < 30, stage
        assert [text.count(WORDS) for text in said] == [1, 0], (stage, said)
        assert not any(word in text for word in ("Traceback", "error") for text in said), (stage, said)
    statuses, said, _ = launch(workspace, out, "none", number, ranks)
    assert statuses == [0, 0], said
    assert outcome(out) == uninterrupted
