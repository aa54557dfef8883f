"""Launches that need a cluster, rehearsed on one machine: two nodes, and sbatch with a srun of the test's own."""

from __future__ import annotations

import csv
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from clipsift_common.files import read_json
from helpers import program
from helpers.machines.launchers import sbatch
from helpers.machines.ranks import TESTS, free_port
from helpers.workspace import write_workspace

pytestmark = pytest.mark.slow


SBATCH = program.REPOSITORY / "configs" / "trainer" / "slurm.sh"

# Two tasks, as SLURM would start them on one node; signals go to the tasks, the worst status comes back.
SRUN = f"""#!{sys.executable}
import os, signal, subprocess, sys
sys.path[:0] = [{str(program.REPOSITORY)!r}, {str(program.REPOSITORY / "tests")!r}]
from helpers.machines.launchers import srun
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
environment = os.environ | {{"MASTER_ADDR": "127.0.0.1"}}
tasks = [subprocess.Popen(command, env=environment | srun(rank, 2)) for rank in range(2)]
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda number, frame: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() % 256 for task in tasks))
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launches")
    config = write_workspace(folder)
    values = yaml.safe_load(config.read_text())
    del values["selection"]  # all of the pool: what is tested is the launch
    config.write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def one(workspace: Path) -> list[float]:
    """Losses of a single process."""
    result = program.run(["fit", f"--config={workspace / 'config.yaml'}", f"--out={workspace / 'one'}"])
    assert result.returncode == 0, result.stderr
    return losses(workspace / "one")


def losses(run: Path) -> list[float]:
    with open(run / "training" / "metrics.csv", newline="") as handle:
        return [float(row["loss"]) for row in csv.DictReader(handle)]


def test_two_nodes(workspace: Path, one: list[float]) -> None:
    out, port = workspace / "nodes", free_port()
    arguments = ["fit", f"--config={workspace / 'config.yaml'}", f"--out={out}", "--trainer.num_nodes=2"]
    nodes = []
    for rank in range(2):
        fabric = [str(program.SCRIPTS / "fabric"), "run", "--accelerator=cpu", "--devices=1", "--num-nodes=2"]
        fabric += [f"--node-rank={rank}", "--main-address=127.0.0.1", f"--main-port={port}"]
        nodes.append(program.start(arguments, fabric))
    try:
        ends = [node.communicate(timeout=200) for node in nodes]
    finally:
        for node in nodes:
            if node.poll() is None:
                program.kill(node)
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert read_json(out / "training" / "training.json")["world_size"] == 2
    assert losses(out) == pytest.approx(one, abs=1e-5)


def test_the_sbatch_script_requeues_and_the_run_goes_on(workspace: Path, one: list[float], tmp_path: Path) -> None:
    assert subprocess.run(["bash", "-n", str(SBATCH)], check=False).returncode == 0
    calls = tmp_path / "calls"
    for name, text in (
        ("srun", SRUN),
        ("scontrol", f'#!/bin/bash\necho "$@" >> {calls}\n'),
        ("clipsift", f'#!/bin/bash\nexec {sys.executable} {program.REPOSITORY / "clipsift.py"} "$@"\n'),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    out = workspace / "slurm"
    more = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.precision=32-true", "--data.workers=0"]
    command = ["bash", str(SBATCH), "fit", f"--config={workspace / 'config.yaml'}", f"--out={out}", *more]
    command += ["--data.samples_seen=16000", "--checkpoint.steps=100000"]
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def start() -> subprocess.Popen[str]:
        job = sbatch(2) | {"MASTER_PORT": str(free_port())}
        pipe, environment, place = subprocess.PIPE, program.environment() | path | job, program.REPOSITORY
        return subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=place, start_new_session=True
        )

    job = start()
    metrics = out / "training" / "metrics.csv"
    try:
        wait_for(job, lambda: metrics.is_file() and len(metrics.read_text().splitlines()) >= 5)
        os.kill(child(job.pid), signal.SIGUSR1)  # SLURM signals the step, not the script
        text = job.communicate(timeout=100)
    finally:
        if job.poll() is None:
            program.kill(job)
    assert job.returncode == 75, text
    assert calls.read_text() == "requeue 4242\n"
    done = len(losses(out))
    assert done >= 4
    assert losses(out)[0] == pytest.approx(one[0], abs=1e-5)

    job = start()  # what SLURM does then
    try:
        wait_for(job, lambda: len(losses(out)) >= done + 5)  # it goes on from there
        job.send_signal(signal.SIGTERM)  # scancel: saved, and not put back
        text = job.communicate(timeout=100)
    finally:
        if job.poll() is None:
            program.kill(job)
    assert job.returncode == 75, text
    assert calls.read_text() == "requeue 4242\n"


def test_torchrun_starts_a_group_again_and_the_run_goes_on(
    workspace: Path, one: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
    callback = {"class_path": "helpers.machines.failures.Fails", "init_args": {"rank": 1, "how": "first", "step": 4}}
    (workspace / "again.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    arguments = ["fit", f"--config={workspace / 'config.yaml'}", f"--config={workspace / 'again.yaml'}"]
    arguments += [f"--out={workspace / 'again'}", "--checkpoint.steps=2"]
    launcher = [*program.torchrun(2), "--max-restarts=1"]
    result = program.run(arguments, launcher)
    assert result.returncode == 0, result.stderr
    assert losses(workspace / "again") == pytest.approx(one, abs=1e-5)


def wait_for(job: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Until ``condition`` holds, for two minutes at most; the job must not end before."""
    give_up = time.monotonic() + 120
    while not condition():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.2)


def child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
