"""Work of rank 0 alone: a collective call in it would wait for ever, so it is refused, in one process as in many."""

from __future__ import annotations

from collections.abc import Callable

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
)
from clipsift_common.errors import ClipsiftError
from clipsift_common.locks import hold
from clipsift_common.progress import say

COLLECTIVES: dict[str, Callable[[], object]] = {
    "barrier": barrier,
    "broadcast_object": lambda: broadcast_object(1),
    "gather_objects": lambda: gather_objects(1),
    "sum_over_ranks": lambda: sum_over_ranks(np.ones(1)),
    "on_rank_zero": lambda: on_rank_zero(rank),
    "say": lambda: say(""),
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
