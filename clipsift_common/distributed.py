"""The few collectives the stages need, on the process group that Lightning has set up (or on none)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from clipsift_common.errors import ClipsiftError

T = TypeVar("T")
R = TypeVar("R")

# How long a rank waits for the others. Rank 0 merges large pools alone; a rank that dies is noticed at once, by its
# launcher and by the connection that it leaves, so a long patience costs nothing.
TIMEOUT = timedelta(hours=12)


NOTICE = 30.0  # seconds for which the ranks wait for rank 0 before one says so
_waits = logging.getLogger("clipsift.waits")
_waits.setLevel(logging.WARNING)  # its own: ranks other than 0 are quiet


class _State(threading.local):
    """What holds in a block of the program, in the thread that is in it."""

    alone = False
    rank_zero_works = False  # this is what the others wait for


_state = _State()


def is_distributed() -> bool:
    """Whether this process works in a group."""
    return not _state.alone and dist.is_available() and dist.is_initialized()


@contextmanager
def alone() -> Iterator[None]:
    """In the block this process is the only one: what would be a collective concerns nobody else."""
    before = _state.alone, _state.rank_zero_works
    _state.alone, _state.rank_zero_works = True, False
    try:
        yield
    finally:
        _state.alone, _state.rank_zero_works = before


def _check_that_all_call() -> None:
    """Raise where only rank 0 can be: the others would never come. Also in one process, so that its tests see it."""
    if _state.rank_zero_works:
        raise RuntimeError("a collective call in work of rank 0 alone; call it before, or in alone()")


def rank() -> int:
    """This process's global rank; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def waiting_group() -> dist.ProcessGroup | None:
    """The group on which ranks wait and exchange what lies in main memory; None for the default one.

    Ranks that wait in NCCL spin, a core and a GPU each. The first call for a process group is a collective.
    """
    if dist.get_backend() == "gloo":
        return None
    return _gloo_beside(dist.group.WORLD)


@cache
def _gloo_beside(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """A second group of the same ranks, made once for each first one."""
    return dist.new_group(backend="gloo", timeout=TIMEOUT)  # type: ignore[return-value]  # every rank is in it


def barrier() -> None:
    """Wait until every process is here."""
    _check_that_all_call()
    if is_distributed():
        dist.barrier(group=waiting_group())


def broadcast_object(value: T) -> T:
    """Rank 0's plain value on every rank."""
    _check_that_all_call()
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=waiting_group())
    return box[0]


def on_rank_zero(work: Callable[[], T]) -> T:
    """What ``work`` returns on rank 0, a plain value, on every rank.

    For what only one may do, and for decisions from the disk: on a network file system the others may see it later.
    An error of ours is raised on every rank; any other on rank 0 alone, which ends the launch.

    Raises:
        RuntimeError: when ``work`` makes a collective call, for which the other ranks would wait for ever.
    """
    _check_that_all_call()
    result: T | None = None
    error: str | None = None
    if rank() == 0:
        _state.rank_zero_works = True
        try:
            result = work()
        except ClipsiftError as problem:
            if world_size() == 1:
                raise
            error = str(problem)
        finally:
            _state.rank_zero_works = False
    with _saying_for_what(work):
        result, error = broadcast_object((result, error))
    if error is not None:
        raise ClipsiftError(error)
    return result  # type: ignore[return-value]  # rank 0's


@contextmanager
def _saying_for_what(work: Callable[[], object]) -> Iterator[None]:
    """In the block the ranks wait for rank 0: when that takes long the first of them says so, once."""
    if rank() != 1:
        yield
        return
    function = getattr(work, "func", work)  # of a partial
    name = f"{function.__module__}.{function.__qualname__}".partition(".<locals>")[0]
    words = "rank 1: all ranks wait for rank 0, which works alone (%s), for more than %.0f s"
    timer = threading.Timer(NOTICE, _waits.warning, [words, name, NOTICE])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def gather_objects(value: T) -> list[T]:
    """Every rank's plain value, in rank order, on every rank."""
    _check_that_all_call()
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=waiting_group())
    return values


def share_out(items: Sequence[T], work: Callable[[T], R]) -> list[R]:
    """What ``work`` makes of each of ``items``, plain values in their order, on every rank; one rank does each.

    An error of ours is raised on every rank, whichever of them has met it.
    """
    return split_over_ranks(items, lambda mine: [*map(work, mine)])


def split_over_ranks(items: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Like :func:`share_out`, with ``work`` that takes a rank's whole share and gives a value for each of it."""
    _check_that_all_call()
    share: Sequence[R] = []
    error: str | None = None
    try:
        share = work(items[rank() :: world_size()])
    except ClipsiftError as problem:
        if world_size() == 1:
            raise
        error = str(problem)
    shares = gather_objects((share, error))
    if failed := next((error for _, error in shares if error is not None), None):
        raise ClipsiftError(failed)
    return [shares[number % world_size()][0][number // world_size()] for number in range(len(items))]


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """The elementwise sum of every rank's array (of one shape and dtype), on every rank."""
    _check_that_all_call()
    if not is_distributed():
        return values
    total = torch.from_numpy(values.copy())
    dist.all_reduce(total, group=waiting_group())
    return total.numpy()
