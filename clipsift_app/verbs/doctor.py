"""The verb ``doctor``: what would fail, found before anything is spent."""

from __future__ import annotations

from clipsift_app.doctor import run_doctor


def run(arguments: list[str]) -> None:
    if not run_doctor(arguments):
        raise SystemExit(1)
