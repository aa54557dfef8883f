"""Units of work as tasks of a Ray cluster, which places them, and repeats those whose worker or node was lost."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, TypeVar

from torch.utils.data import Dataset

from clipsift_common.engines.base import GROUP, EngineName, Group, one
from clipsift_common.errors import ClipsiftError, expected, first_line
from clipsift_common.machine import Machine
from clipsift_common.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Ray:
    """A task for each unit, on the cluster of ``RAY_ADDRESS``, the one that is running here, or this machine.

    Every node needs this program, and the folders under the same paths.

    Attributes:
        on_gpus: whether a task takes a GPU; by default if the cluster has any.
        cpus: that a task takes.
    """

    on_gpus: bool | None = None
    cpus: int = 1

    def do(
        self,
        label: str,
        units: Sequence[T],
        make: Callable[[T], object],
        is_made: Callable[[T], bool],
        size: Callable[[T], int] = one,
        counted: str = "units",
    ) -> None:
        """See :class:`~clipsift_common.engines.base.Engine`; what ``make`` holds is sent once to each worker."""
        todo = [unit for unit in units if not is_made(unit)]
        total = sum(map(size, units))
        with Progress(label, total, counted) as progress:
            progress.resume(total - sum(map(size, todo)))
            if todo:
                self._run(todo, make, lambda unit: progress.advance(size(unit)))

    def _run(self, units: Sequence[T], make: Callable[[T], object], done: Callable[[T], object]) -> None:
        ray = connect()
        task = ray.remote(_make).options(num_cpus=self.cpus, num_gpus=int(self.uses_gpus))
        held = [ray.put(make)]
        tasks = {unit_task.future(): (unit_task, unit) for unit in units for unit_task in [task.remote(held, unit)]}
        try:
            for finished in as_completed(tasks):
                unit = tasks[finished][1]
                with_one_line(finished.result, unit)
                done(unit)
        except BaseException:
            for unit_task, _ in tasks.values():
                ray.cancel(unit_task)
            raise

    @property
    def uses_gpus(self) -> bool:
        """Whether a task takes a GPU."""
        return connect().cluster_resources().get("GPU", 0) > 0 if self.on_gpus is None else self.on_gpus


def make_engine(name: EngineName, machine: Machine) -> Group | Ray:
    """The engine ``group`` or ``ray``, with GPUs or without as ``machine`` says."""
    on_gpus = {"auto": None, "cpu": False}.get(machine.accelerator, True)
    return Ray(on_gpus) if name == "ray" else GROUP


def connect() -> ModuleType:
    """Ray, connected to its cluster. Raises :class:`ClipsiftError` without the package, and for a dead cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that starts here
    try:
        import ray  # here: it is an extra
    except ImportError as error:
        raise ClipsiftError("engine: ray is not installed; install clipsift[ray]") from error
    if not ray.is_initialized():
        try:
            ray.init(logging_level=logging.ERROR)
        except Exception as error:  # of any kind, even this
            raise ClipsiftError(
                f"engine: no Ray cluster can be reached ({first_line(error)}); see ray status"
            ) from error
    return ray


def with_one_line(result: Callable[[], Any], unit: object) -> Any:
    """What ``result`` returns; an error of ours in a worker, and the loss of one too many, as one line."""
    import ray.exceptions

    try:
        return result()
    except ray.exceptions.RayTaskError as error:
        line = str(error.cause) if isinstance(error.cause, ClipsiftError) else expected(error.cause)
        if line is None:
            raise
        raise ClipsiftError(line) from error
    except ray.exceptions.RayError as error:
        what = f"ray: {unit} is lost too often ({first_line(error)})"
        raise ClipsiftError(f"{what}; the same command resumes") from error


def items_ahead(dataset: Dataset[Any], ahead: int) -> Iterator[Any]:
    """The items of a map-style ``dataset``, in order, made by tasks of a CPU each, up to ``ahead`` before they are
    wanted. For a worker that has a GPU, which others are to feed."""
    import ray

    task, held = ray.remote(_item).options(num_cpus=1), [ray.put(dataset)]
    length = len(dataset)  # type: ignore[arg-type]  # map-style
    waiting: deque[Any] = deque()
    for item in range(length):
        waiting.append(task.remote(held, item))
        if len(waiting) > ahead:
            yield with_one_line(partial(ray.get, waiting.popleft()), item)
    while waiting:
        yield with_one_line(partial(ray.get, waiting.popleft()), length - len(waiting))


def _item(held: Sequence[Any], item: int) -> Any:
    return _fetched(held[0])[item]


def _make(held: Sequence[Any], unit: Any) -> None:
    """One unit, in a worker. ``held``: a reference in a list, which Ray does not follow by itself for every task."""
    _fetched(held[0])(unit)


@lru_cache(maxsize=1)  # a worker's: the step that it is at
def _fetched(reference: Any) -> Any:
    import ray

    return ray.get(reference)
