"""Combinations and draws are the same bytes on any number of processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.machines.ranks import script_environment

SCRIPT = Path(__file__).with_name("ranks_choose.py")


@pytest.mark.slow
def test_one_two_and_three_processes_choose_the_same(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, env=script_environment(), capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    sizes = {"rank_sum": 38, "weighted_sum": 60, "soft": 700, "hard": 900}  # 193 rows
    for name, size in sizes.items():
        expected = (tmp_path / "ranks1" / f"{name}.npy").read_bytes()
        assert len(np.load(tmp_path / "ranks1" / f"{name}.npy")) == size
        for world_size in (2, 3):
            assert (tmp_path / f"ranks{world_size}" / f"{name}.npy").read_bytes() == expected, (name, world_size)
    assert not list((tmp_path / "ranks2").glob(".*"))
