"""The verb ``fit``: training on the subset, after a selection when there is none."""

from __future__ import annotations

from clipsift_app.stages import run_fit
from clipsift_app.start import start
from clipsift_common.progress import say


def run(arguments: list[str]) -> None:
    say(f"model: {run_fit(start('fit', arguments))}")
