"""Ranks watch each other: that one has ended reaches also those that wait where nothing would tell them, as in NCCL.

Each rank listens to the one before it, in a ring. It hears one word: a farewell, or that all are told to stop
(:mod:`clipsift_common.ends.stop`). A connection that breaks without a word means that a rank has died or failed; who
hears it ends too, and so the next one does.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from contextlib import suppress

import torch
import torch.distributed as dist

from clipsift_common.distributed import TIMEOUT
from clipsift_common.ends import stop
from clipsift_common.errors import say_error

GRACE = 10.0  # seconds in which a rank may say by itself why it ends

_FAREWELL = 0

_watching: list[threading.Thread] = []
_said = threading.Lock()  # taken by who says the one word
_ending: list[threading.Timer] = []


def watch() -> None:
    """Watch the rank before this one until both are done; a collective call of the whole process group."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=TIMEOUT)  # type: ignore[assignment]  # all are in it
    thread = threading.Thread(target=_listen, args=(group,), daemon=True)
    thread.start()
    _watching.append(thread)
    stop.tell_others(lambda status: _say(status, group), is_quiet=dist.get_rank() > 0)
    atexit.register(_part, group, thread)


def end_soon(reason: str) -> None:
    """End this process, with ``reason``, unless it ends by itself: what it does next may wait for other ranks.

    Does nothing in a process that nobody watches.
    """
    if _watching:
        timer = threading.Timer(GRACE, _end, [reason])
        timer.daemon = True
        timer.start()
        _ending.append(timer)


def go_on() -> None:
    """Take :func:`end_soon` back: what might have waited is over, and who called it may want to live on."""
    while _ending:
        _ending.pop().cancel()


def _listen(group: dist.ProcessGroup) -> None:
    word = torch.empty(1, dtype=torch.int64)
    try:
        dist.recv(word, (dist.get_rank() - 1) % dist.get_world_size(), group)
    except RuntimeError:  # the connection broke
        time.sleep(GRACE)
        if not stop.status():  # else it is why
            _end("ended because another rank did")
    else:
        if word.item() != _FAREWELL:
            stop.told_by_another(int(word.item()))


def _end(reason: str) -> None:
    say_error(reason, dist.get_rank())
    os._exit(1)


def _say(word: int, group: dist.ProcessGroup) -> None:
    """Say the one word to the rank that listens to this one."""
    if _said.acquire(blocking=False):
        with suppress(RuntimeError):  # it has gone
            dist.send(torch.tensor([word]), (dist.get_rank() + 1) % dist.get_world_size(), group)


def _part(group: dist.ProcessGroup, thread: threading.Thread) -> None:
    """Say farewell, and give the rank before this one time to do so."""
    _say(_FAREWELL, group)
    thread.join(GRACE)
