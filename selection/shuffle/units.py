"""A step's units, numbered from 0: what is made of each is a file of its number in one folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.distributed import world_size
from clipsift_common.engines.base import Engine
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import wait_for


@dataclass(frozen=True)
class Made:
    """Where the files of a step's units are."""

    folder: Path

    def __call__(self, unit: int) -> Path:
        return self.folder / f"{unit}.npy"


def make_units(
    engine: Engine,
    label: str,
    make: Callable[[int, Path], object],
    folder: Path,
    count: int,
    costs: Sequence[float] | np.ndarray | None = None,
) -> list[Path]:
    """Where ``make(unit, path)`` has written the file of each unit from 0 to ``count``; a collective call.

    Args:
        engine: who does the units that are not there yet.
        label: what is done, for the line that says how far it is.
        make: writes the file atomically, as a function of the unit alone; pickles.
        folder: of the files, of no other step.
        costs: of each unit: the costliest are begun first, and no process gets all of them.

    Raises:
        ClipsiftError: what any unit raised.
    """
    place = Made(folder)
    order = range(count) if costs is None else _to_and_fro(costs, world_size())
    engine.do(label, order, partial(_make, make, place, label), partial(_is_made, place))
    paths = [place(unit) for unit in range(count)]
    wait_for(*paths)
    return paths


def _to_and_fro(costs: Sequence[float] | np.ndarray, processes: int) -> list[int]:
    """Units by falling cost, every second round of all ``processes`` turned about, so that all have about the same."""
    order = np.argsort(-np.asarray(costs, np.float64), kind="stable").tolist()
    rounds = [order[start : start + processes] for start in range(0, len(order), processes)]
    return [unit for number, some in enumerate(rounds) for unit in (some[::-1] if number % 2 else some)]


def _make(make: Callable[[int, Path], Any], place: Made, label: str, unit: int) -> None:
    try:
        make(unit, place(unit))
    except ValueError as error:
        raise ClipsiftError(f"selection: {label}: {error}") from error


def _is_made(place: Made, unit: int) -> bool:
    return place(unit).is_file()
