"""Units of work on a Ray cluster on this machine, with a worker killed. Not among the fast tests: it takes seconds to
start, and Ray is an extra."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from clipsift_common.engines.on_ray import Ray
from clipsift_common.errors import ClipsiftError
from helpers.machines.ray_cluster import ray_cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with ray_cluster(2, Path(__file__).parent):
        yield


def write(unit: int, folder: Path) -> None:
    (folder / str(unit)).write_text(str(unit * unit))


def write_but_die(unit: int, folder: Path, times: int) -> None:
    """Of unit 3 the worker is killed so many times before it writes."""
    deaths = len(list(folder.glob("death*")))
    if unit == 3 and deaths < times:
        (folder / f"death{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    write(unit, folder)


def refuse(unit: int) -> None:
    if unit == 4:
        raise ClipsiftError("pool/4.parquet: is damaged; get it again")


def fail(unit: int) -> None:
    raise KeyError(unit)


def is_there(unit: int, folder: Path) -> bool:
    return (folder / str(unit)).exists()


def test_a_unit_whose_worker_was_killed_is_made_by_another(tmp_path: Path) -> None:
    write(7, tmp_path)
    before = (tmp_path / "7").stat().st_mtime_ns
    Ray().do("work", range(12), partial(write_but_die, folder=tmp_path, times=1), partial(is_there, folder=tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.glob("[0-9]*")} == {
        str(unit): str(unit * unit) for unit in range(12)
    }
    assert (tmp_path / "death0").exists()
    assert (tmp_path / "7").stat().st_mtime_ns == before


def test_a_unit_that_kills_every_worker_ends_the_step_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match=r"^ray: 3 is lost too often \(.*\); the same command resumes$"):
        Ray().do("work", [3], partial(write_but_die, folder=tmp_path, times=100), lambda _: False)


def test_an_error_of_ours_in_a_worker_is_the_line_it_would_be_here() -> None:
    with pytest.raises(ClipsiftError, match=r"^pool/4\.parquet: is damaged; get it again$"):
        Ray().do("work", range(12), refuse, lambda _: False)


def test_another_error_in_a_worker_is_a_bug_with_its_traceback() -> None:
    with pytest.raises(KeyError) as raised:
        Ray().do("work", [5], fail, lambda _: False)
    assert not isinstance(raised.value, ClipsiftError)
