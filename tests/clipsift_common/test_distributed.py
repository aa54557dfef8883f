"""Work of rank 0 alone: a collective call in it would wait for ever, so it is refused, in one process as in many."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch.distributed as dist

from clipsift_common import distributed
from clipsift_common.distributed import (
    alone,
    barrier,
    broadcast_object,
    gather_objects,
    on_rank_zero,
    rank,
    share_out,
    sum_over_ranks,
)
from clipsift_common.errors import ClipsiftError
from clipsift_common.locks import hold
from clipsift_common.progress import say
from helpers.machines.fake_group import FakeGroup

COLLECTIVES: dict[str, Callable[[], object]] = {
    "barrier": barrier,
    "broadcast_object": lambda: broadcast_object(1),
    "gather_objects": lambda: gather_objects(1),
    "sum_over_ranks": lambda: sum_over_ranks(np.ones(1)),
    "on_rank_zero": lambda: on_rank_zero(rank),
    "say": lambda: say(""),
    "share_out": lambda: share_out([1], str),
}


@pytest.mark.parametrize("name", COLLECTIVES)
def test_a_collective_call_in_work_of_rank_zero_is_refused(name: str) -> None:
    with pytest.raises(RuntimeError, match="collective call in work of rank 0 alone"):
        on_rank_zero(COLLECTIVES[name])
    COLLECTIVES[name]()  # the mark is gone with the work that failed


@pytest.mark.parametrize("name", COLLECTIVES)
def test_who_is_alone_waits_for_nobody(name: str) -> None:
    def work() -> None:
        with alone():
            COLLECTIVES[name]()
        with pytest.raises(RuntimeError, match="work of rank 0"):
            barrier()  # no longer alone

    on_rank_zero(work)


def test_what_work_gives_and_raises_reaches_the_caller(tmp_path) -> None:
    assert on_rank_zero(lambda: 3) == 3

    def fails() -> None:
        raise ClipsiftError("no such pool")

    with pytest.raises(ClipsiftError, match="no such pool"):
        on_rank_zero(fails)
    hold(tmp_path)  # collective too: the next call is not taken for a part of the work that failed


def test_who_waits_long_for_work_of_rank_zero_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(distributed, "NOTICE", 0.2)
    monkeypatch.setattr(logging.getLogger("clipsift"), "level", logging.ERROR)  # as ranks other than 0 have it
    FakeGroup[None](4).run(lambda: on_rank_zero(partial(time.sleep, 0)))
    assert not caplog.messages
    FakeGroup[None](4).run(lambda: on_rank_zero(_long_work))
    (line,) = caplog.messages
    assert line.startswith("rank 1: all ranks wait for rank 0, which works alone (")
    assert "test_distributed._long_work" in line


def _long_work() -> None:
    time.sleep(0.8)


def test_shared_work_comes_back_in_order_and_its_error_to_all() -> None:
    done: list[tuple[int, int]] = []

    def square(number: int) -> int:
        done.append((number, rank()))
        return number**2

    assert FakeGroup[list[int]](3).run(lambda: share_out(range(7), square)) == [[0, 1, 4, 9, 16, 25, 36]] * 3
    assert sorted(done) == [(number, number % 3) for number in range(7)]
    assert FakeGroup[list[int]](3).run(lambda: share_out([], square)) == [[]] * 3

    def fails(number: int) -> int:
        if number == 4:
            raise ClipsiftError("the fourth is damaged")
        return number

    for size in (1, 3):
        with pytest.raises(ClipsiftError, match="the fourth is damaged"):  # of all, or the group would say who fails
            FakeGroup[list[int]](size).run(lambda: share_out(range(7), fails))


def test_ranks_with_gpus_wait_on_a_group_that_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []
    used: list[object] = []

    def new_group(**how: object) -> str:
        made.append(how)
        return "gloo beside it"

    def collective(*_: object, group: object, **__: object) -> None:
        used.append(group)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(dist, "new_group", new_group)
    for name in ("barrier", "broadcast_object_list", "all_gather_object", "all_reduce"):
        monkeypatch.setattr(dist, name, collective)
    distributed._gloo_beside.cache_clear()
    try:
        barrier()
        broadcast_object(1)
        on_rank_zero(rank)
        gather_objects(1)
        sum_over_ranks(np.ones(1))
    finally:
        distributed._gloo_beside.cache_clear()
    assert used == ["gloo beside it"] * 5
    assert made == [{"backend": "gloo", "timeout": distributed.TIMEOUT}]  # not gloo's own half an hour
