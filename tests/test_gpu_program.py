"""The acceptance program for a GPU, in the form that a CPU can run: so that it is ready when there is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.rows import FAILS, OK, Results, at_least, at_most, holds, measured

REPOSITORY = Path(__file__).resolve().parents[1]


def test_a_verdict_is_what_value_and_bound_say() -> None:
    assert [at_least("x", value, 2).verdict for value in (1.9, 2.0, 2.1, float("nan"))] == [FAILS, OK, OK, FAILS]
    assert [at_most("x", value, 2).verdict for value in (1.9, 2.0, 2.1, float("nan"))] == [OK, OK, FAILS, FAILS]
    assert [holds("x", value).verdict for value in (True, False)] == [OK, FAILS]


def test_results_are_kept_by_machine(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json", "an H100")
    results.keep("1", [at_least("rate", 0.5, 0.6), measured("time", 3.0)])
    again = Results(tmp_path / "results.json", "an H100")
    assert again.parts == results.parts
    assert [row.name for row in again.failures] == ["rate"]
    assert "| 1 | rate | 0.5 | >= 0.6 | FAILS |" in again.markdown()
    assert Results(tmp_path / "results.json", "another").parts == {}


@pytest.mark.slow
def test_every_part_runs_to_its_end_on_a_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert sorted(parts) == [str(number) for number in range(1, 9)]
    assert min(len(rows) for rows in parts.values()) >= 3
