"""A process group of many ranks in one process: a thread for each, and collectives at which the threads meet.

Nobody waits in vain: as soon as no rank can go on, because they call different collectives or some have ended,
:class:`OutOfStep` says where each one is. What every rank does with files below a folder is noted on the way.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any, Generic, TypeVar
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ddp
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from clipsift_common import distributed
from clipsift_common.launchers import Place
from clipsift_common.machine import LaunchedMachine
from helpers.program import REPOSITORY

T = TypeVar("T")

PATIENCE = 60.0  # seconds without a collective after which ranks that hang outside of one fail the test
_IDLE = 0.01  # share of the time that a process computes which only waits; on a busy machine another gets more
_OWN_FILES = (__file__, distributed.__file__)


class OutOfStep(AssertionError):
    """The ranks cannot go on together; says where each of them is."""


@dataclass
class Files:
    """What one rank did with files, by path below the watched folder."""

    read: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    listed: set[str] = field(default_factory=set)
    looked_for: set[str] = field(default_factory=set)  # does it exist, how large is it


class FakeGroup(Generic[T]):
    """``FakeGroup(8).run(job)`` runs ``job`` on 8 ranks.

    Args:
        size: the number of ranks.
        watched: the folder below which files are noted.

    Attributes:
        calls: the collectives so far, each as kind and place in the program, the same on all ranks.
        files: of each rank, noted while it ran.
    """

    def __init__(self, size: int, watched: Path | None = None) -> None:
        self.size, self.watched = size, watched
        self.calls: list[str] = []
        self.files = [Files() for _ in range(size)]
        self._turn = threading.Condition()
        self._waiting: dict[int, tuple[str, Any]] = {}
        self._ended: dict[int, str] = {}
        self._given: Any = None
        self._met_at = _clocks()  # or ended
        self._table = ""

    def run(self, job: Callable[[], T]) -> list[T]:
        """What ``job`` returns on each rank.

        Raises:
            OutOfStep: when the ranks call different collectives, or only some of them fail.
            Exception: what ``job`` raised, when it raised the same on every rank.
        """
        results: dict[int, T] = {}
        errors: dict[int, BaseException] = {}
        self._ended.clear()
        self._met_at = _clocks()

        def be(rank: int) -> None:
            try:
                results[rank] = job()
            except BaseException as error:
                errors[rank] = error
            with self._turn:
                self._ended[rank] = f"ended with {_name(errors[rank])}" if rank in errors else "ended"
                self._met_at = _clocks()
                self._go_on()

        with self._patches():
            threads = [threading.Thread(target=be, args=(rank,), daemon=True) for rank in range(self.size)]
            for rank, thread in enumerate(threads):
                thread.rank = rank  # type: ignore[attr-defined]
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(PATIENCE / 4)
                    assert not self._hang(), self._where()
        own = {rank: error for rank, error in errors.items() if not isinstance(error, OutOfStep)}
        if len(own) == self.size and len({_name(error) for error in own.values()}) == 1:
            raise own[0]
        if errors:
            raise OutOfStep(self._table or self._where()) from next(iter((own or errors).values()))
        return [results[rank] for rank in range(self.size)]

    def check_files(self, readers: int = 1, own_folders: str | tuple[str, ...] = "/") -> None:
        """No rank but 0 has asked the disk what there is, no file was written by two, or read by more than ``readers``.

        ``own_folders``: what the folders begin with that are a rank's to list.
        Read by all may be what all need: targets, subsets, notes, what rank 0 has made for them. The arrays in
        ``.gathered`` are filled by all.
        """
        for rank, files in enumerate(self.files[1:], start=1):
            listed = [path for path in files.listed if not path.startswith(own_folders)]
            assert not listed, f"rank {rank} lists {listed}"
            asked = files.looked_for - files.read - files.written - files.listed
            assert not asked, f"rank {rank} asks for {sorted(asked)}, which are not its own"
        written = Counter(path for files in self.files for path in files.written)
        twice = [path for path, count in written.items() if count > 1 and ".gathered/" not in path]
        assert not twice, f"{twice} are written by two ranks"
        read = Counter(path for files in self.files[1:] for path in files.read if path.endswith(_SHARED_OUT))
        often = [path for path, count in read.items() if count > readers]
        assert not often, f"{often} are read by several ranks"

    def _meet(self, kind: str, value: Any = None, combine: Callable[[list[Any]], Any] = list) -> Any:
        """What ``combine`` makes of every rank's value, in rank order."""
        rank, call = _rank(), f"{kind} in {_place()}"
        with self._turn:
            self._waiting[rank] = call, value
            self._go_on(combine)
            self._turn.wait_for(lambda: rank not in self._waiting or self._table)
            if self._table:
                raise OutOfStep(self._table)
            return self._given

    def _go_on(self, combine: Callable[[list[Any]], Any] = list) -> None:
        """Let all go on when all are here and want the same; give up when they never will."""
        if len(self._waiting) + len(self._ended) < self.size or not self._waiting:
            return
        calls = {call for call, _ in self._waiting.values()}
        if len(calls) > 1 or self._ended:
            self._table = self._table or self._where()
        else:
            self.calls += calls
            self._met_at = _clocks()
            self._given = combine([self._waiting[rank][1] for rank in range(self.size)])
            self._waiting.clear()
        self._turn.notify_all()

    def _hang(self) -> bool:
        """Whether the ranks have not met for long, and computed all the while or not at all: how long work between two
        collectives takes depends on what else the machine does."""
        waited, computed = (now - then for now, then in zip(_clocks(), self._met_at))
        return waited > PATIENCE and not _IDLE * waited < computed < PATIENCE

    def _where(self) -> str:
        ranks: dict[str, list[int]] = defaultdict(list)
        for rank in range(self.size):
            waits = self._waiting.get(rank)
            ranks[self._ended.get(rank) or (waits[0] if waits else "at work")].append(rank)
        return "\n".join(f"ranks {who}: {where}" for where, who in ranks.items())

    # The group as torch has it, on the threads that are ranks.

    @contextmanager
    def _patches(self) -> Iterator[None]:
        fakes: dict[str, Callable[..., Any]] = {
            "is_initialized": lambda: _rank() is not None,
            "get_rank": lambda group=None: _rank(),
            "get_world_size": lambda group=None: self.size,
            "get_backend": lambda group=None: "gloo",
            "barrier": lambda group=None: self._meet("barrier"),
            "broadcast_object_list": self._broadcast_objects,
            "all_gather_object": self._gather_objects,
            "all_reduce": self._all_reduce,
            "all_gather": self._all_gather,
        }
        with ExitStack() as stack:
            for name, fake in fakes.items():
                stack.enter_context(mock.patch.object(dist, name, fake))
            # Trainers copy rank 0's weights with a collective below Python, and tell Lightning who they are.
            stack.enter_context(mock.patch.object(ddp, "_sync_module_states"))
            stack.enter_context(mock.patch.object(rank_zero_only, "rank", 0, create=True))
            stack.enter_context(mock.patch.object(threading.Thread, "start", _inheriting(threading.Thread.start)))
            # Python 3.11 computes one at a time, for all threads.
            stack.enter_context(mock.patch.object(cached_property, "__get__", _computed_by_each))
            for where, name, note in _WATCHED:
                original = getattr(where, name)
                stack.enter_context(mock.patch.object(where, name, self._noting(original, note)))
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, threads)
            yield

    # Objects go over a network as bytes: what a rank gets is its own.

    def _broadcast_objects(self, box: list[Any], src: int = 0, group: Any = None) -> None:
        box[:] = pickle.loads(self._meet("broadcast", pickle.dumps(box) if _rank() == src else None)[src])  # noqa: S301

    def _gather_objects(self, values: list[Any], value: Any, group: Any = None) -> None:
        values[:] = map(pickle.loads, self._meet("gather", pickle.dumps(value)))

    def _all_reduce(self, total: torch.Tensor, op: Any = dist.ReduceOp.SUM, **_: Any) -> None:
        assert op == dist.ReduceOp.SUM
        total.copy_(self._meet("sum", total.clone(), lambda parts: torch.stack(parts).sum(0)))

    def _all_gather(self, parts: list[torch.Tensor], value: torch.Tensor, group: Any = None) -> None:
        for part, given in zip(parts, self._meet("all_gather", value.clone())):
            part.copy_(given)

    # What is done with files.

    def _noting(self, function: Callable[..., Any], note: str) -> Callable[..., Any]:
        def noted(path: Any = ".", *args: Any, **kwargs: Any) -> Any:
            if _rank() is not None and isinstance(path, str | bytes | os.PathLike):
                if note == "opened":
                    self._note("written" if _writes(args[0] if args else kwargs.get("mode", "r")) else "read", path)
                elif note != "looked_for" or _program_frame().f_code.co_name not in _ALL_MAY_LOOK:
                    self._note(note, args[0] if note == "written" else path)
            return function(path, *args, **kwargs)

        return noted

    def _note(self, kind: str, path: Any) -> None:
        # A relative path may be anybody's: jsonargparse changes the folder of the whole process for a while.
        root, name = f"{self.watched}{os.sep}", os.path.normpath(os.fsdecode(path))
        if f"{name}{os.sep}".startswith(root) and not name.endswith(".tmp"):  # that is not in its place yet
            getattr(self.files[_rank()], kind).add(os.path.relpath(name, root))


_SHARED_OUT = (".tar", ".parquet", ".npz")  # files of the pool, and what is made of each
# For a file that rank 0 says is there; for the folder to write into; for what settings name, which every process reads.
_ALL_MAY_LOOK = ("wait_for", "atomic_path", "absolute")
_WATCHED: tuple[tuple[Any, str, str], ...] = (
    (builtins, "open", "opened"),
    (io, "open", "opened"),
    (os, "open", "opened"),
    (os, "listdir", "listed"),
    (os, "scandir", "listed"),
    (os, "stat", "looked_for"),
    (os, "replace", "written"),
    (pa, "memory_map", "read"),
    (pq, "ParquetFile", "read"),
    (pq, "read_metadata", "read"),
    (pq, "read_schema", "read"),
    (pq, "read_table", "read"),
)


def machine_here() -> LaunchedMachine:
    """The machine of the rank that asks: a process of a launch on one node without GPUs."""
    rank, size = distributed.rank(), distributed.world_size()
    return LaunchedMachine("cpu", size, place=Place("torchrun", rank, size, rank, size))


def _clocks() -> tuple[float, float]:
    """Seconds that have gone by, and that this process has computed."""
    return time.monotonic(), time.process_time()


def _writes(mode: str | int) -> bool:
    return bool(mode & (os.O_WRONLY | os.O_RDWR)) if isinstance(mode, int) else not set(mode).isdisjoint("wxa+")


def _rank() -> Any:
    """Of the rank whose thread this is, or that has started it; None outside of ranks."""
    return getattr(threading.current_thread(), "rank", None)


def _inheriting(start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    """``Thread.start`` of threads that belong to the rank that starts them."""

    def start_as_same_rank(thread: threading.Thread) -> None:
        thread.rank = getattr(thread, "rank", _rank())  # type: ignore[attr-defined]
        start(thread)

    return start_as_same_rank


def _computed_by_each(self: Any, instance: Any, owner: Any = None) -> Any:
    """``cached_property.__get__`` as it is since Python 3.12."""
    if instance is None:
        return self
    if self.attrname not in vars(instance):
        vars(instance)[self.attrname] = self.func(instance)
    return vars(instance)[self.attrname]


def _program_frame() -> FrameType:
    """Where the program is that has called what is faked here."""
    frame, root = sys._getframe(1), f"{REPOSITORY}/"
    while frame.f_back and (frame.f_code.co_filename in _OWN_FILES or not frame.f_code.co_filename.startswith(root)):
        frame = frame.f_back
    return frame


def _place() -> str:
    frame = _program_frame()
    return f"{frame.f_code.co_filename.removeprefix(f'{REPOSITORY}/')}:{frame.f_lineno}"


def _name(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
