"""A recipe by one process, a group, seven parts of which two were killed, and Ray with a worker killed: the same bytes.

Its sibling in one process is in test_score_parts.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipsift_common.engines.on_ray import Ray
from helpers.machines.ranks import script_environment
from helpers.machines.ray_cluster import ray_cluster
from helpers.scored_pool import BLOCK_ROWS, SIZES, results, selector
from selection import selector as selector_module

pytestmark = pytest.mark.slow

# Read by every Python that finds it: the first process to make FLAG is killed right before its second score file.
KILLER = """
import os, signal
moved, move = 0, os.replace
def replace(source, target, *others, **named):
    global moved
    if "/selection/scores/" in str(target):
        moved += 1
        if moved == 2:
            try:
                os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
    return move(source, target, *others, **named)
os.replace = replace
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("same_bytes")
    here = Path(__file__).parent
    environment = script_environment()
    environment["PYTHONPATH"] += f":{here.parent}"
    done = subprocess.run(
        [sys.executable, here / "same_bytes.py", folder], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", ["group2", "parts7"])
def test_a_group_and_parts_leave_the_bytes_of_one_process(folder: Path, name: str) -> None:
    whole = results(folder, "whole")
    assert len(whole) == len(SIZES) + 1
    assert results(folder, name) == whole


def test_ray_with_a_worker_killed_leaves_the_bytes_of_one_process(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selector_module, "BLOCK_ROWS", BLOCK_ROWS)
    (tmp_path / "sitecustomize.py").write_text(KILLER.format(flag=str(tmp_path / "killed")))
    with ray_cluster(2, tmp_path):
        selector(folder, "ray", Ray()).run()
    assert (tmp_path / "killed").exists()
    assert results(folder, "ray") == results(folder, "whole")
