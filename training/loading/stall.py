"""Who keeps a run waiting: a thread that says which rank, worker and shard, when no batch has come for too long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

logger = logging.getLogger("clipsift")


class Reading:
    """What each worker of a loader reads at the moment, visible to the process that waits for it.

    One row number of the pool's index per worker (the main process when there is none), in shared memory; -1 before
    the first. It travels to a worker with the dataset.
    """

    def __init__(self, workers: int) -> None:
        self._rows = torch.full((max(1, workers),), -1, dtype=torch.int64).share_memory_()

    def note(self, row: int) -> None:
        """Say that this process goes to read ``row``."""
        worker = get_worker_info()
        self._rows[worker.id if worker else 0] = row

    def row(self, worker: int) -> int:
        """What ``worker`` is at."""
        return int(self._rows[worker])


class StallTimer:
    """Logs ``describe()`` when the time since :meth:`start` reaches ``seconds``, and again after each as many.

    A daemon thread that looks four times in that time; a wait itself costs two assignments. 0 seconds: never.
    """

    def __init__(self, seconds: float, describe: Callable[[], str]) -> None:
        self.seconds, self.describe = seconds, describe
        self._since: float | None = None
        self._ended = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch inside the block."""
        if self.seconds > 0:
            self._ended.clear()
            threading.Thread(target=self._watch, name="stall timer", daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()

    def start(self) -> None:
        """A wait begins."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """It is over."""
        self._since = None

    def _watch(self) -> None:
        said = 0
        while not self._ended.wait(self.seconds / 4):
            since = self._since
            times = 0 if since is None else int((time.monotonic() - since) / self.seconds)
            if times > said:  # an error, so that every rank says it, not only the first
                logger.error("no batch for %.3g s: %s", times * self.seconds, self.describe())
            said = times
