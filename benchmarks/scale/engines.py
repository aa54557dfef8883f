"""What a unit of work costs beside the work, by group, by part, as a task of Ray's; and what the start of a part costs.

Rows are units here, and metadata files in ``part_start``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.scale.part import Part
from clipsift_common.engines.base import GROUP, Engine, Part as PoolPart
from clipsift_common.engines.on_ray import Ray, connect
from selection.features.files import write_feature_file
from selection.uids import UID_DTYPE

REPOSITORY = Path(__file__).resolve().parents[2]
FILE_ROWS = 64  # what a score costs is nothing here


def no_data(rows: int, folder: Path) -> None:
    """Nothing to prepare."""


def touch(unit: int, folder: Path) -> None:
    """The least work: an empty file."""
    (folder / str(unit)).touch()


def is_there(unit: int, folder: Path) -> bool:
    return (folder / str(unit)).exists()


def units(engine: Callable[[], Engine], rows: int, folder: Path) -> str:
    """Milliseconds a unit, by the clock, and before the first."""
    start = time.perf_counter()
    ready = engine()
    ready.do("warm", [-1], partial(touch, folder=folder), partial(is_there, folder=folder))
    begun = time.perf_counter()
    ready.do("units", range(rows), partial(touch, folder=folder), partial(is_there, folder=folder))
    ended = time.perf_counter()
    return f"{1e3 * (ended - begun) / rows:.2f} ms a unit, {begun - start:.1f} s before the first"


def group() -> Engine:
    return GROUP


def one_part() -> Engine:
    return PoolPart(1, 1)


def on_ray() -> Engine:
    connect()
    return Ray(on_gpus=False)


def metadata(rows: int, folder: Path) -> None:
    """So many small metadata files, and their scores by both of two parts."""
    rng = np.random.default_rng(0)
    for number in range(rows):
        image, text = (rng.standard_normal((FILE_ROWS, 8)).astype(np.float32) for _ in range(2))
        uids = np.frombuffer(rng.bytes(16 * FILE_ROWS), UID_DTYPE)
        image, text = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (image, text))
        write_feature_file(folder / "metadata", "x", f"{number:06d}", uids, [""] * FILE_ROWS, image, text)
    for number in (1, 2):
        score(folder, f"{number}/2")


def score(folder: Path, part: str) -> float:
    """CPU seconds of the program that scores a part."""
    steps = "--selection.steps=[{score: clip_score, keep: 0.5}]"
    where = [f"--pool={folder / 'metadata'}", f"--out={folder / 'run'}", "--selection.features=x", steps]
    command = [sys.executable, str(REPOSITORY / "clipsift.py"), "score", f"--part={part}", *where]
    before = os.times()
    subprocess.run([*command, "--trainer.accelerator=cpu"], check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def part_start(rows: int, folder: Path) -> str:
    """A part that has nothing left to do."""
    return f"CPU {score(folder, '1/2'):.1f} s in the program"


SIZES = (100, 300, 1000)
PARTS = {
    "units_group": Part(no_data, partial(units, group), SIZES, 2),
    "units_part": Part(no_data, partial(units, one_part), SIZES),
    "units_ray": Part(no_data, partial(units, on_ray), SIZES),
    "part_start": Part(metadata, part_start, SIZES),
}
