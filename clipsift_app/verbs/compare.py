"""The verb ``compare``: several runs as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipsift_app.report.rows import compare
from clipsift_app.report.tables import Format, format_comparison
from clipsift_app.verb_settings import parse_settings
from clipsift_common.errors import ClipsiftError


@dataclass
class CompareSettings:
    """Which runs, against which recipe (by default the one that keeps most), and how to print them."""

    runs: list[str]
    baseline: str | None = None
    format: Format = "table"


def run(arguments: list[str]) -> None:
    split = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    runs, rest = arguments[:split], arguments[split:]
    settings = parse_settings(CompareSettings, [f"--runs={runs}", *rest])
    if not settings.runs:
        raise ClipsiftError("compare: give the run directories first: clipsift compare RUN_DIR ... [--format FORMAT]")
    print(format_comparison(compare([Path(run) for run in settings.runs], settings.baseline), settings.format))
