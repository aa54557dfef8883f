"""The verb ``select``: a pool and a recipe in, a subset file out."""

from __future__ import annotations

from clipsift_app.stages import run_select
from clipsift_app.start import start


def run(arguments: list[str]) -> None:
    run_select(start("select", arguments))
