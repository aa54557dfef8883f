"""Ranks that are forked by a script which has imported the program: a start costs no import."""

from __future__ import annotations

import atexit
import os
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import lightning.pytorch.cli  # noqa: F401 - what the program imports late is imported once, for all

from clipsift_app import stages  # noqa: F401
from clipsift_app.program import run_verb
from helpers.machines.launchers import Variables, open_mpi
from helpers.machines.ranks import free_port

Launcher = Callable[[int, int], Variables]


class Forked:
    """Ranks of ``clipsift ARGUMENTS``, at work.

    Args:
        arguments: of the program.
        says: what each prints goes to ``<says>.<rank>.out`` and ``.err``.
        launcher: the environment of each; None: a single process that nobody launched.
        prepare: is called in each before the program.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        says: Path,
        launcher: Launcher | None = open_mpi,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.says, self.ranks = says, list[int]()
        port, count = free_port(), 2 if launcher else 1
        for rank in range(count):
            variables = launcher(rank, count) if launcher else {}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if launcher else {}
            process = os.fork()
            if not process:
                status = 98
                try:
                    self._redirect(rank)
                    os.environ.update(variables)
                    prepare()
                    status = run_verb(arguments[0], list(arguments[1:]))
                    atexit._run_exitfuncs()
                except BaseException:
                    traceback.print_exc()
                os._exit(status)
            self.ranks.append(process)

    def _place(self, rank: int, stream: str) -> Path:
        return self.says.with_name(f"{self.says.name}.{rank}.{stream}")

    def _redirect(self, rank: int) -> None:
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(self._place(rank, stream), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)

    def wait(self, seconds: float) -> list[int]:
        """The status of each, when all have ended; -9 for what is killed after so many seconds."""
        statuses: dict[int, int] = {}
        give_up = time.monotonic() + seconds
        while len(statuses) < len(self.ranks):
            for process in set(self.ranks) - set(statuses):
                if time.monotonic() > give_up:
                    os.kill(process, 9)
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    statuses[process] = os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        return [statuses[process] for process in self.ranks]

    def said(self) -> list[str]:
        """What each has printed."""
        words = []
        for rank in range(len(self.ranks)):
            parts = []
            for stream in ("out", "err"):
                with suppress(FileNotFoundError):
                    parts.append(self._place(rank, stream).read_text())
            words.append("".join(parts))
        return words


def errors(text: str) -> list[str]:
    """The lines by which the program says why it ends."""
    return [line for line in text.splitlines() if line.startswith("clipsift: error")]
