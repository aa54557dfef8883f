"""The verb ``reproduce``: the whole pipeline, for one run or a grid of them."""

from __future__ import annotations

from clipsift_app.grid import is_grid, run_grid
from clipsift_app.stages import reproduce
from clipsift_app.start import start
from clipsift_common.progress import say


def run(arguments: list[str]) -> None:
    if is_grid(arguments):
        return say(f"comparison: {run_grid(arguments)}")
    say(f"report: {reproduce(start('reproduce', arguments))}")
