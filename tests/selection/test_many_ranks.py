"""The same bytes from one, two and three processes, and after one was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipsift_common.files import read_json
from helpers.machines.ranks import script_environment

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("many_ranks.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out)],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def results(out: Path) -> dict[str, bytes]:
    """Everything that a run leaves, but for what is temporary and what holds times of change."""
    parts = ("selection", "shards", "sets", "draws")
    names = [path.relative_to(out) for part in parts for path in (out / part).rglob("*")]
    return {str(name): (out / name).read_bytes() for name in names if (out / name).is_file() and name.suffix != ".tmp"}


def test_files_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    expected = results(folder / "ranks1")
    assert {"selection/subset.npy", "selection/scores/0003.parquet", "shards/00000004.tar"} <= set(expected)
    for world_size in (2, 3):
        found = results(folder / f"ranks{world_size}")
        assert [name for name in expected if found.get(name) != expected[name]] == []
        assert set(found) == set(expected)


def test_a_killed_run_is_finished_to_the_same_bytes(folder: Path) -> None:
    expected = results(folder / "ranks1")
    runs = sorted(folder.glob("killed*"))
    assert len(runs) > 8  # the last one ended before its turn to be killed
    for out in runs:
        found = results(out)
        assert [name for name in expected if found.get(name) != expected[name]] == [], out.name
        assert set(found) == set(expected)


def test_what_was_selected_is_what_was_asked_for(folder: Path) -> None:
    about = read_json(folder / "ranks3" / "selection" / "subset.json")
    assert about["num_pool"] == 280
    assert [step["num_kept"] for step in about["steps"]] == [224, 140, 84]
    by_sets = [
        step["num_kept"] for step in read_json(folder / "ranks3" / "sets" / "selection" / "subset.json")["steps"]
    ]
    assert by_sets[:3] == [252, 168, 140]
    assert 0 < by_sets[3] < 140
    assert read_json(folder / "ranks3" / "selection" / "data_report.json")["lost"] == {"bad_features": 1}
