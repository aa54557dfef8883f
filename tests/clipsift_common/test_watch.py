from __future__ import annotations

import threading
import time

import pytest

from clipsift_common.ends import watch


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Why this process would have ended, were it watched."""
    said: list[str] = []
    monkeypatch.setattr(watch, "GRACE", 0.05)
    monkeypatch.setattr(watch, "_watching", [threading.current_thread()])
    monkeypatch.setattr(watch, "_end", said.append)
    return said


def test_who_does_not_end_by_itself_is_ended(ends: list[str]) -> None:
    watch.end_soon("out of memory")
    time.sleep(0.5)
    assert ends == ["out of memory"]


def test_who_has_got_through_lives_on(ends: list[str]) -> None:
    watch.end_soon("out of memory")
    watch.go_on()
    time.sleep(0.5)
    assert ends == []


def test_who_is_not_watched_is_left_to_its_launcher(ends: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watching", [])
    watch.end_soon("out of memory")
    time.sleep(0.5)
    assert ends == []
