"""Whatever ends one rank, the other says one line and ends within a minute, without a launcher that would kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from helpers import program
from helpers.machines.launchers import Variables, open_mpi, pytorchjob
from helpers.machines.ranks import TESTS, free_port
from helpers.workspace import write_workspace

pytestmark = pytest.mark.slow

START = 500.0  # seconds in which two ranks have started, and come to what is to happen, also on a busy machine


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ends")
    values = yaml.safe_load(write_workspace(folder).read_text())
    del values["selection"]
    values["data"] |= {"samples_seen": 16 * 5000, "workers": 0}
    values["checkpoint"] = {"steps": 100_000}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def start(
    workspace: Path, out: Path, *arguments: str, launcher: Callable[[int, int], Variables] = open_mpi
) -> list[subprocess.Popen[str]]:
    """Two ranks of a long training, with what ``launcher`` leaves in their environment."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    path = {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    command = [sys.executable, str(program.REPOSITORY / "clipsift.py"), "fit", f"--config={workspace / 'config.yaml'}"]
    return [
        subprocess.Popen(
            [*command, f"--out={out}", *arguments],
            env=program.environment() | path | launcher(rank, 2) | meeting,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def wait_for_rows(ranks: list[subprocess.Popen[str]], out: Path) -> None:
    """Until some steps are done."""
    give_up = time.monotonic() + START
    metrics = out / "training" / "metrics.csv"
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 3) and time.monotonic() < give_up:
        assert all(rank.poll() is None for rank in ranks), wait(ranks, 60)
        time.sleep(0.2)


def wait(ranks: list[subprocess.Popen[str]], seconds: float) -> list[str]:
    """What each said at the end."""
    try:
        return [rank.communicate(timeout=seconds)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def check_seconds(record: Callable[[str, object], None], since: float) -> None:
    """Of the two ranks, that have ended: within a minute of what has ended one of them; for the test's report."""
    seconds = time.time() - since
    assert seconds < 60
    record("seconds", round(seconds, 1))


def is_one_line(text: str, words: str) -> bool:
    (line,) = [line for line in text.splitlines() if line.startswith("clipsift: error")]
    return words in line and "Traceback" not in text


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_is_killed(workspace: Path, killed: int, record_property: Callable[[str, object], None]) -> None:
    out = workspace / f"killed{killed}"
    ranks = start(workspace, out)
    wait_for_rows(ranks, out)
    command = ["fit", f"--config={workspace / 'config.yaml'}", f"--out={out}"]
    second = program.run(command)
    assert (second.returncode, is_one_line(second.stderr, f"{out}: another start is at work in it")) == (1, True)
    since = time.time()
    ranks[killed].send_signal(signal.SIGKILL)
    said = wait(ranks, 60)
    check_seconds(record_property, since)
    assert ranks[1 - killed].returncode == 1
    assert is_one_line(said[1 - killed], "ended because another rank did"), said


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
    workspace: Path, rank: int, how: str, words: str, record_property: Callable[[str, object], None]
) -> None:
    config = workspace / f"{how}.yaml"
    callback = {"class_path": "helpers.failures.Fails", "init_args": {"rank": rank, "how": how}}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    out = workspace / f"{how} on {rank}"
    ranks = start(workspace, out, f"--config={config}", launcher=pytorchjob)
    said = wait(ranks, START)
    check_seconds(record_property, (out / "training" / "metrics.csv").stat().st_mtime)  # of the last step
    assert [process.returncode for process in ranks] == [1, 1], said
    assert is_one_line(said[rank], words), said
    assert is_one_line(said[1 - rank], "ended because another rank did"), said


def test_a_disk_that_is_full_from_the_start(workspace: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(b"a" * (64 * 1024 - 8192))
    said = wait(ranks := start(workspace, small_disk / "folder" / "run"), START)
    assert [process.returncode for process in ranks] == [1, 1], said
    assert all(is_one_line(text, "cannot be written (No space left on device)") for text in said), said


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_rank_is_killed_while_the_other_waits_where_it_is_not_told(workspace: Path, stuck: int) -> None:
    """As in NCCL, between two GPUs of one node."""
    config = workspace / f"stuck{stuck}.yaml"
    callback = {"class_path": "helpers.failures.Fails", "init_args": {"rank": stuck, "how": "stuck"}}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    out = workspace / f"stuck{stuck}"
    ranks = start(workspace, out, f"--config={config}")
    wait_for_rows(ranks, out)
    ranks[1 - stuck].send_signal(signal.SIGKILL)
    said = wait(ranks, 60)
    assert ranks[stuck].returncode == 1
    assert is_one_line(said[stuck], "ended because another rank did"), said


@pytest.mark.parametrize("small_disk", ["24m"], indirect=True)
@pytest.mark.parametrize(
    ("step", "left", "arguments", "words"),
    [
        (3, 1 << 16, ("--checkpoint.steps=4",), "last.ckpt: cannot be written"),
        (3, 0, (), "metrics.csv: cannot be written (No space left on device)"),
        (99, 0, ("--data.samples_seen=160",), "model/open_clip_model.safetensors: cannot be written"),
    ],
)
def test_a_disk_that_fills_on_the_way(
    workspace: Path, small_disk: Path, step: int, left: int, arguments: tuple[str, ...], words: str
) -> None:
    config = small_disk / "fills.yaml"
    how = {"folder": str(small_disk), "step": step, "left": left}
    callback = {"class_path": "helpers.failures.Fills", "init_args": how}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    ranks = start(workspace, small_disk / "run", f"--config={config}", *arguments)
    said = wait(ranks, START)
    assert [process.returncode for process in ranks] == [1, 1], said
    assert any(is_one_line(text, words) for text in said), said
    assert all(is_one_line(text, words) or is_one_line(text, "another rank did") for text in said), said
