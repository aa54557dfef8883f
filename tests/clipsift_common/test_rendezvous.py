from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.launchers import Place
from clipsift_common.rendezvous import PATIENCE_VARIABLE, meet
from helpers.ranks import free_port


def test_ranks_meet_whoever_comes_first() -> None:
    port = free_port()
    with ThreadPoolExecutor(3) as threads:
        stores = list(threads.map(lambda rank: meet(Place("", rank, 3, port=port)), (2, 0, 1)))
        stores[0].set("key", "value")
        assert [store.get("key") for store in stores] == [b"value"] * 3


def test_a_group_that_is_started_again_does_not_take_the_dead_for_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun keeps one store over all its attempts."""
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        first = list(threads.map(lambda rank: meet(Place("", rank, 2, port=port)), range(2)))
        monkeypatch.setenv(PATIENCE_VARIABLE, "1")
        with pytest.raises(ClipsiftError, match=r"these of 2 ranks are missing: 0"):
            meet(Place("", 1, 2, port=port, attempt=1, hosted=True))
        assert len(first) == 2


def test_who_is_missing_is_said_soon_and_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(PATIENCE_VARIABLE, "4")
    port = free_port()
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(meet, Place("", rank, 4, port=port), notice=1.0) for rank in (0, 2)]
        errors = [str(end.exception(timeout=30)) for end in ends]
    assert all(isinstance(end.exception(), ClipsiftError) for end in ends)
    missing = f"at 127.0.0.1:{port} these of 4 ranks are missing: 1, 3 (here are 0 on {socket.gethostname()}, 2 on"
    assert missing in errors[0]
    assert "given up after 4 s" in errors[0]
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
