"""The verb ``demo``: the whole pipeline on pictures that it draws itself."""

from __future__ import annotations

from clipsift_app.demo.run import DemoSettings, run_demo
from clipsift_app.verb_settings import parse_settings


def run(arguments: list[str]) -> None:
    run_demo(parse_settings(DemoSettings, arguments))
