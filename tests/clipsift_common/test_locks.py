from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from clipsift_common import locks
from clipsift_common.errors import ClipsiftError
from clipsift_common.locks import hold, locks_are_local


@pytest.fixture(autouse=True)
def _nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_held", {})


def _hold_until_killed(folder: Path, said: Connection) -> None:
    hold(folder)
    said.send("held")
    signal.pause()


def test_the_second_start_is_refused_and_a_crash_leaves_no_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    hear, said = context.Pipe()
    other = context.Process(target=_hold_until_killed, args=(tmp_path / "run", said))
    other.start()
    assert hear.recv() == "held"
    with pytest.raises(ClipsiftError, match=f"another start is at work in it .process {other.pid} on"):
        hold(tmp_path / "run")
    hold(tmp_path / "other")
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    hold(tmp_path / "run")
    hold(tmp_path / "run")  # again, by the same launch


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    hold(tmp_path)
    assert "locks do not work there" in caplog.text
    assert os.strerror(errno.ENOLCK) in caplog.text


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
nas:/a /nas nfs rw,vers=3,nolock,addr=10.0.0.2 0 0
nas:/b /nas/good nfs4 rw,vers=4.2,local_lock=none 0 0
nas:/c /kept nfs rw,vers=3,local_lock=all 0 0
mds@tcp:/l /lustre lustre rw,localflock,lazystatfs 0 0
"""


@pytest.mark.parametrize(
    ("folder", "local"),
    [("/home/a", False), ("/nas/run", True), ("/nas/good/run", False), ("/kept", True), ("/lustre/x/y", True)],
)
def test_locks_that_stay_on_a_node_are_known_by_the_mount(folder: str, local: bool) -> None:
    assert locks_are_local(Path(folder), MOUNTS) is local


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipsiftError, match="cannot be written"):
        hold(tmp_path / "file")
