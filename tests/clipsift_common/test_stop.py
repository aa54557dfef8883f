"""What a signal does in one process."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from clipsift_common.ends import stop


@pytest.fixture(autouse=True)
def in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number: int) -> None:
    """A signal to this process, which takes it before the end of a wait."""
    os.kill(os.getpid(), number)
    time.sleep(5)


def tell() -> None:
    threading.Thread(target=stop.told_by_another, args=(stop.INTERRUPTED,)).start()
    time.sleep(5)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the other ranks are told."""
    heard: list[int] = []
    monkeypatch.setattr(stop, "_tellers", [heard.append])
    return heard


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_what_is_being_done_and_is_told_to_the_others(number: int, status: int, told: list[int]) -> None:
    before = signal.getsignal(number)
    with stop.listening():
        with pytest.raises(stop.Stopped) as caught:
            send(number)
        stop.part()
    assert caught.value.code == status
    assert signal.getsignal(number) is before
    assert stop.status() == 0
    assert told == [status]


def test_what_is_deferred_goes_on_until_it_heeds(told: list[int]) -> None:
    with stop.listening():
        stop.defer(others_wait=False)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert (stop.status(), told) == (stop.REQUEUE, [])
        with pytest.raises(stop.Stopped), stop.heeding():
            pass
        stop.heed()
        with pytest.raises(stop.Stopped):
            stop.stop_if_told()


def test_another_rank_that_was_told_stops_this_one(told: list[int]) -> None:
    with pytest.raises(stop.Stopped) as caught, stop.listening():
        tell()
    assert caught.value.code == stop.INTERRUPTED


def test_a_shell_s_background_ignores_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop.listening():
        stop.listen_again()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        assert stop.status() == 0


def test_handlers_of_a_library_are_taken_back() -> None:
    with stop.listening():
        signal.signal(signal.SIGTERM, lambda *_: None)
        stop.listen_again()
        with pytest.raises(stop.Stopped):
            send(signal.SIGTERM)


def test_a_forked_child_leaves_the_terminal_s_signals_to_its_parent() -> None:
    with stop.listening():
        child = os.fork()
        if child == 0:
            for number in (signal.SIGINT, signal.SIGUSR1):
                os.kill(os.getpid(), number)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert stop.status() == 0


def test_the_first_process_of_a_container_waits_for_no_parent(monkeypatch: pytest.MonkeyPatch, told: list[int]) -> None:
    """It has none: 0 is its parent's number, and that of who was started by no rank."""
    monkeypatch.setattr(os, "getppid", lambda: 0)
    with stop.listening():
        start = time.monotonic()
        stop.part()
        assert time.monotonic() - start < stop.GRACE / 2
