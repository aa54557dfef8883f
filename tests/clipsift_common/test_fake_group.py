"""The fake process group works like a real one, and notices what would make a real one wait for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from clipsift_common.distributed import (
    alone,
    barrier,
    broadcast_object,
    gather_objects,
    on_rank_zero,
    rank,
    sum_over_ranks,
    world_size,
)
from clipsift_common.errors import ClipsiftError
from helpers.machines import fake_group
from helpers.machines.fake_group import FakeGroup, OutOfStep


def test_what_collectives_give() -> None:
    def job() -> tuple[object, ...]:
        barrier()
        mine = np.array([rank(), 1])
        with alone():
            assert gather_objects(7) == [7]
        return broadcast_object([rank()]), gather_objects(rank()), sum_over_ranks(mine).tolist(), world_size()

    group: FakeGroup[tuple[object, ...]] = FakeGroup(5)
    assert group.run(job) == [([0], [0, 1, 2, 3, 4], [10, 5], 5)] * 5
    kinds = [call.split()[0] for call in group.calls]
    assert kinds == ["barrier", "broadcast", "gather", "sum"]
    assert (rank(), world_size()) == (0, 1)  # nobody is in a group any more


def test_a_rank_that_never_comes_is_named() -> None:
    def job() -> None:
        if rank() != 2:
            barrier()

    with pytest.raises(OutOfStep, match=r"ranks \[0, 1, 3\]: barrier in .*test_fake_group.*\nranks \[2\]: ended"):
        FakeGroup(4).run(job)


def test_different_collectives_are_named() -> None:
    def job() -> None:
        if rank() == 0:
            barrier()
        else:
            gather_objects(1)

    with pytest.raises(OutOfStep, match=r"ranks \[0\]: barrier in .*\nranks \[1, 2\]: gather in"):
        FakeGroup(3).run(job)


def test_the_same_collective_in_another_place_is_another() -> None:
    def job() -> None:
        if rank() == 0:
            barrier()
        else:
            barrier()

    with pytest.raises(OutOfStep, match=r"ranks \[0\]: barrier in .*\nranks \[1\]: barrier in"):
        FakeGroup(2).run(job)


def test_a_rank_that_fails_alone_is_named_and_one_error_of_all_is_theirs() -> None:
    def one() -> None:
        if rank() == 1:
            raise ClipsiftError("no such file")
        barrier()

    with pytest.raises(OutOfStep, match=r"ranks \[1\]: ended with ClipsiftError: no such file"):
        FakeGroup(2).run(one)

    def fails() -> None:
        raise ClipsiftError("no such pool")

    with pytest.raises(ClipsiftError, match="no such pool"):
        FakeGroup(8).run(lambda: on_rank_zero(fails))


def test_a_collective_in_work_of_rank_zero_is_refused() -> None:
    with pytest.raises(OutOfStep, match="collective call in work of rank 0 alone"):
        FakeGroup(2).run(lambda: on_rank_zero(barrier))


def test_who_does_what_with_files(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_text(name)

    def job(number: int) -> None:
        (tmp_path / f"{number}.tar").read_text()
        (tmp_path / f"{rank()}.json").write_text("{}")

    group: FakeGroup[None] = FakeGroup(3, tmp_path)
    group.run(lambda: job(rank() % 2))
    assert [files.read for files in group.files] == [{"0.tar"}, {"1.tar"}, {"0.tar"}]
    assert [files.written for files in group.files] == [{"0.json"}, {"1.json"}, {"2.json"}]
    group.check_files()
    for wrong, words in (
        (lambda: list(tmp_path.iterdir()), "rank 1 lists"),
        (lambda: (tmp_path / "x").is_file(), "rank 1 asks for"),
        (lambda: (tmp_path / "all").write_text(""), "written by two"),
        (lambda: (tmp_path / "0.tar").read_text(), "read by several"),
    ):
        group = FakeGroup(3, tmp_path)
        group.run(wrong)  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match=words):
            group.check_files()


def test_a_rank_that_hangs_is_named_and_one_that_is_slow_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_group, "PATIENCE", 0.4)
    let_go = threading.Event()

    def slow() -> None:
        for _ in range(8):
            time.sleep(0.1)
            barrier()

    def hangs() -> None:
        if rank() == 1:
            let_go.wait()
        barrier()

    FakeGroup(2).run(slow)
    with pytest.raises(AssertionError, match=r"ranks \[0\]: barrier in .*\nranks \[1\]: at work"):
        FakeGroup(2).run(hangs)
    let_go.set()
