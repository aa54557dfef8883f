"""Told to stop: SIGTERM, SIGUSR1 or Ctrl-C at any rank ends all of them soon, whatever each is doing, never with 0.

Stages write whole files and resume, so a process may end anywhere: the handler raises :class:`Stopped`. A rank that
waits in a collective does not come to its handler. A thread hears of the signal at once, tells the other ranks
(:mod:`clipsift_common.ends.watch`), and ends the process when that has not happened by itself within ``GRACE`` seconds.
Training saves first: it defers the end to the end of its step.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: not a failure, try again
INTERRUPTED = 130  # a shell's, for Ctrl-C
STATUSES = {signal.SIGTERM: REQUEUE, signal.SIGUSR1: REQUEUE, signal.SIGINT: INTERRUPTED}
GRACE = 10.0  # seconds
_AGAIN = 1.0  # seconds after which a second Ctrl-C is meant, not the terminal's and a launcher's of the first
_LOOK = 2.0  # seconds between two looks whether the process that started this one is still there
PARENT_VARIABLE = "CLIPSIFT_PARENT"  # who starts a launch's other processes; theirs alone


class Stopped(SystemExit):
    """This process was told to stop, and the same command resumes; ends the program with status 75, or 130."""

    def __str__(self) -> str:
        return "stopped by a signal; the same command resumes"


class _State:
    """Of this process."""

    def __init__(self) -> None:
        self.status = 0  # to end with; 0: nobody has told us
        self.deferred = self.others_wait = False
        self.interrupted = 0.0  # when Ctrl-C came
        self.parent = int(os.environ.get(PARENT_VARIABLE, 0))
        self.raised = False
        self.ending = threading.Lock()  # taken once
        self.telling: list[threading.Thread] = []


_state: _State | None = None  # while signals are listened to
_tellers: list[Callable[[int], None]] = []
_is_quiet = False


@contextmanager
def listening() -> Iterator[None]:
    """In the block signals stop the program. Only in the main thread, where alone Python takes them; nests."""
    global _state
    if _state or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state = _State()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    earlier_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    # A shell has what it puts into the background ignore Ctrl-C.
    heard = [number for number in STATUSES if signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.signal(number, _on_signal) for number in heard}
    threading.Thread(target=_attend, args=(receiver, _state), daemon=True).start()
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_fd)
        _state = None
        sender.close()  # ends the thread


def listen_again() -> None:
    """Put our handlers back in the place of a library's (Lightning's start a collective inside the handler)."""
    if _state and threading.current_thread() is threading.main_thread():
        for number in STATUSES:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, _on_signal)


def status() -> int:
    """The status that this process was told to end with; 0 when it was not told."""
    return _state.status if _state else 0


def tell_others(tell: Callable[[int], None], is_quiet: bool) -> None:
    """Have ``tell(status)`` called, in a thread, when this process is told to stop and does not save first.

    ``is_quiet``: another rank says that all were stopped.
    """
    global _is_quiet
    _tellers.append(tell)
    _is_quiet = is_quiet


def told_by_another(status: int) -> None:
    """Do as told to another rank, which is about to end; called in a thread."""
    if not _state or _state.status:
        return
    _state.status = status
    if not _state.deferred or _state.others_wait:
        _end(_state)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def defer(others_wait: bool) -> None:
    """From now on a signal waits for :func:`heed`, so that a step can be finished and saved.

    ``others_wait``: the step needs the other ranks, so it cannot be finished when one of them ends at once.
    """
    if _state:
        _state.deferred, _state.others_wait = True, others_wait


def heed() -> None:
    """Signals end the process at once again."""
    if _state:
        _state.deferred = False


@contextmanager
def heeding() -> Iterator[None]:
    """A block in which a signal ends the process at once, in one where it is deferred.

    Raises :class:`Stopped` if one has come already.
    """
    deferred = bool(_state and _state.deferred)
    heed()
    stop_if_told()
    yield
    if _state:
        _state.deferred = deferred


def agree(status: int) -> None:
    """Note that all ranks have agreed to end with ``status``, whichever of them was told."""
    if _state:
        _state.status = status


def stop_if_told() -> None:
    """Raise :class:`Stopped`, on the other ranks too, if a signal came while it was deferred."""
    if _state and _state.status:
        _end(_state)
        raise Stopped(_state.status)


def ignore_further() -> None:
    """What has been told is being done; only a second Ctrl-C makes it faster."""
    if _state:
        _state.raised = True


def part() -> None:
    """Before this process ends: the others are told, and the rank that started this one ends first.

    Lightning kills a rank whose child ends before it.
    """
    if not _state:
        return
    _end(_state)
    for thread in _state.telling:
        thread.join(_LOOK)
    give_up = time.monotonic() + 2 * GRACE
    while _state.parent and _state.parent == os.getppid() and time.monotonic() < give_up:
        time.sleep(0.1)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """In the main thread, when it next runs Python."""
    state = _state
    if state is None:
        return
    if number == signal.SIGINT:
        if state.interrupted and time.monotonic() - state.interrupted > _AGAIN:
            os._exit(INTERRUPTED)
        state.interrupted = state.interrupted or time.monotonic()
    state.status = state.status or STATUSES[signal.Signals(number)]
    if not state.deferred and not state.raised:
        state.raised = True
        _end(state)
        raise Stopped(state.status)


def _attend(receiver: socket.socket, state: _State) -> None:
    """Hear of signals while the main thread cannot, and of the end of the process that started this one."""
    receiver.settimeout(_LOOK if state.parent else None)
    with receiver:
        while state is _state:
            try:
                heard = receiver.recv(64)
            except TimeoutError:
                if os.getppid() != state.parent:
                    state.parent = 0
                    told_by_another(REQUEUE)
                continue
            if not heard:
                return
            for number in heard:
                if number in STATUSES:
                    state.status = state.status or STATUSES[signal.Signals(number)]
                    if not state.deferred:
                        _end(state)


def _end(state: _State) -> None:
    """Tell the others, and see that this process ends; once."""
    if not state.ending.acquire(blocking=False):
        return
    state.telling = [threading.Thread(target=tell, args=(state.status,), daemon=True) for tell in _tellers]
    for thread in state.telling:
        thread.start()
    timer = threading.Timer(GRACE, _leave, [state])
    timer.daemon = True
    timer.start()


def _leave(state: _State) -> None:
    """End in the middle of what cannot be left otherwise."""
    if state is not _state:
        return
    if not _is_quiet:
        with suppress(OSError):  # who cannot say it must end all the same
            print(f"clipsift: {Stopped()}", file=sys.stderr, flush=True)
    part()
    os._exit(state.status)


def _in_child() -> None:
    """A forked child's signals: what the terminal or a scheduler sends to all is for its parent to decide on."""
    global _state
    if _state:
        _state = None
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)


os.register_at_fork(after_in_child=_in_child)
