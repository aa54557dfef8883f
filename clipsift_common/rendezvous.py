"""The ranks find each other, or say within half a minute who is missing."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import time
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist
from lightning.fabric.strategies import DDPStrategy

from clipsift_common.distributed import TIMEOUT
from clipsift_common.ends.watch import watch
from clipsift_common.errors import ClipsiftError
from clipsift_common.launchers import Place

logger = logging.getLogger("clipsift")

PATIENCE_VARIABLE = "CLIPSIFT_LAUNCH_TIMEOUT"  # seconds
_PATIENCE = 300.0  # seconds until the ranks that are here give up
_NOTICE = 20.0  # seconds until they say that they are waiting


class MeetingStrategy(DDPStrategy):
    """Fabric's DDP, whose ranks answer a roll call before they make the process group.

    Args:
        place: this process's in a launch; None for processes that Lightning starts.
    """

    def __init__(self, place: Place | None) -> None:
        super().__init__(timeout=TIMEOUT)
        self._place = place or Place("Lightning", 0, 1)

    def setup_environment(self) -> None:
        launched, device = self.cluster_environment, self.root_device
        assert self.accelerator is not None
        assert launched is not None
        self.accelerator.setup_device(device)
        launched.set_global_rank(self.node_rank * self.num_processes + self.local_rank)
        launched.set_world_size(self.num_nodes * self.num_processes)
        rank, world_size = launched.global_rank(), launched.world_size()
        address, port = launched.main_address, launched.main_port
        store = meet(replace(self._place, rank=rank, world_size=world_size, address=address, port=port))
        on_gpu = device.type == "cuda"
        dist.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
            device_id=device if on_gpu else None,
        )
        if on_gpu:
            atexit.register(dist.destroy_process_group)
        watch()
        super().setup_environment()  # finds the group


def meet(place: Place, notice: float = _NOTICE) -> dist.Store:
    """The store of all ranks, when every one of them has come.

    Args:
        place: who this is, and where the ranks meet.
        notice: seconds after which those that wait say so; they give up after ``CLIPSIFT_LAUNCH_TIMEOUT`` of them.

    Raises:
        ClipsiftError: naming address, port and the ranks that did not come.
    """
    call = _RollCall(place, notice)
    store = dist.PrefixStore(f"clipsift/{place.attempt}", call.connect())
    call.wait(store)
    return store


class _RollCall:
    def __init__(self, place: Place, notice: float) -> None:
        self.place, self.notice = place, notice
        self.patience = float(os.environ.get(PATIENCE_VARIABLE, _PATIENCE))
        self.start, self.told = time.monotonic(), False
        self.where = f"{place.address}:{place.port}"

    def connect(self) -> dist.Store:
        """Rank 0 answers at the port, unless the launcher does; the others try until it answers."""
        place = self.place
        answers = place.rank == 0 and not place.hosted
        while True:
            seconds = timedelta(seconds=max(1.0, min(self.notice, self._left())))
            try:
                return dist.TCPStore(
                    place.address, place.port, place.world_size, answers, timeout=seconds, wait_for_workers=False
                )
            except dist.DistError as error:
                if answers and "in use" in str(error):
                    text = f"port {place.port} of {place.address} is in use; set MASTER_PORT to a free one"
                    raise ClipsiftError(f"launch: {text}") from error
                self._report(f"{self.where} does not answer rank {place.rank}", "rank 0 is to listen there")

    def wait(self, store: dist.Store) -> None:
        """Until all have said that they are here."""
        store.set(f"rank{self.place.rank}", socket.gethostname())
        number = store.add("arrived", 1)
        if number >= self.place.world_size:
            store.set("complete", "yes")
        pause, notice = 0.01, time.monotonic() + self.notice
        while not _is_complete(store):
            if self._left() <= 0 or time.monotonic() >= notice:
                self._report(*self._absent(store), silent=number > 1)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)

    def _absent(self, store: dist.Store) -> tuple[str, str]:
        ranks = range(self.place.world_size)
        try:
            here = {rank: store.get(f"rank{rank}").decode() for rank in ranks if store.check([f"rank{rank}"])}
        except dist.DistError:  # rank 0 has given up
            return f"{self.where} does not answer rank {self.place.rank} any more", "rank 0 was there"
        absent = ", ".join(str(rank) for rank in ranks if rank not in here)
        hosts = ", ".join(f"{rank} on {host}" for rank, host in here.items())
        return f"at {self.where} these of {len(ranks)} ranks are missing: {absent}", f"here are {hosts}"

    def _report(self, what: str, more: str, silent: bool = False) -> None:
        """Say it once, and give up when it is time."""
        if self._left() <= 0:
            waited = f"after {self.patience:.0f} s, as {PATIENCE_VARIABLE} says"
            raise ClipsiftError(f"launch: {what} ({more}); given up {waited}")
        if not self.told and not silent:
            self.told = True
            logger.warning("launch: %s (%s); waiting %.0f s more", what, more, self._left())

    def _left(self) -> float:
        return self.patience - (time.monotonic() - self.start)


def _is_complete(store: dist.Store) -> bool:
    try:
        return store.check(["complete"])
    except dist.DistError:  # rank 0 has given up
        return False
