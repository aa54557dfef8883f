from __future__ import annotations

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from clipsift_common import rendezvous
from clipsift_common.errors import ClipsiftError
from clipsift_common.launchers import Place
from clipsift_common.rendezvous import PATIENCE_VARIABLE, meet
from helpers.machines.ranks import free_port


class Clock:
    """Stands still until the test moves it: what is tested does not depend on how busy the machine is."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What the ranks take for the time; they are patient for 100 s of it."""
    found = Clock()
    monkeypatch.setattr(rendezvous, "time", found)
    monkeypatch.setenv(PATIENCE_VARIABLE, "100")
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def are_here(port: int, attempt: int, *ranks: int) -> bool:
    """Whether the roll call at ``port`` has heard of these ranks."""
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    return dist.PrefixStore(f"clipsift/{attempt}", store).check([f"rank{rank}" for rank in ranks])


def test_ranks_meet_whoever_comes_first() -> None:
    port = free_port()
    with ThreadPoolExecutor(3) as threads:
        stores = list(threads.map(lambda rank: meet(Place("", rank, 3, port=port)), (2, 0, 1)))
        stores[0].set("key", "value")
        assert [store.get("key") for store in stores] == [b"value"] * 3


def test_a_group_that_is_started_again_does_not_take_the_dead_for_present(clock: Clock) -> None:
    """torchrun keeps one store over all its attempts."""
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        first = list(threads.map(lambda rank: meet(Place("", rank, 2, port=port), 60), range(2)))
        second = threads.submit(meet, Place("", 1, 2, port=port, attempt=1, hosted=True), 60)
        wait_until(lambda: are_here(port, 1, 1))
        clock.now = 101
        with pytest.raises(ClipsiftError, match=r"these of 2 ranks are missing: 0"):
            second.result(timeout=60)
        assert len(first) == 2


def test_who_is_missing_is_said_soon_and_ends_the_wait(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(meet, Place("", rank, 4, port=port), 60) for rank in (0, 2)]
        wait_until(lambda: are_here(port, 0, 0, 2))
        clock.now = 61
        wait_until(lambda: bool(caplog.records))
        clock.now = 101
        errors = [str(end.exception(timeout=60)) for end in ends]
    assert all(isinstance(end.exception(), ClipsiftError) for end in ends)
    missing = f"at 127.0.0.1:{port} these of 4 ranks are missing: 1, 3 (here are 0 on {socket.gethostname()}, 2 on"
    assert missing in errors[0]
    assert "given up after 100 s" in errors[0]
    (said,) = [record.getMessage() for record in caplog.records]  # by one of them, once
    assert missing in said


def test_a_rank_that_finds_nobody_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "2")
    port = free_port()
    words = rf"127.0.0.1:{port} does not answer rank 3 \(rank 0 is to listen there\); given up after 2 s"
    with pytest.raises(ClipsiftError, match=words):
        meet(Place("", 3, 4, port=port), notice=1.0)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClipsiftError, match=f"port {port} of 127.0.0.1 is in use; set MASTER_PORT"):
            meet(Place("", 0, 2, port=port))
