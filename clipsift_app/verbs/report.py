"""The verb ``report``: a run as one page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipsift_app.parsing import read_settings
from clipsift_app.report.page import QUANTILES
from clipsift_app.stages import run_report
from clipsift_app.verb_settings import parse_settings
from clipsift_common.progress import say


@dataclass
class ReportSettings:
    """Which run; the rest is taken from its config.yaml unless given.

    ``baseline`` is a run to show beside it; ``quantiles`` of each score, in [0, 1], whose pairs are shown.
    """

    run: str
    truth: str | None = None
    baseline: str | None = None
    quantiles: list[float] = field(default_factory=lambda: list(QUANTILES))


def run(arguments: list[str]) -> None:
    settings = parse_settings(ReportSettings, arguments, positional="run")
    about = read_settings(Path(settings.run))
    how = {"baseline": Path(settings.baseline) if settings.baseline else None, "quantiles": settings.quantiles}
    page = run_report(Path(settings.run), about.candidates(), about.cache, settings.truth or about.truth, **how)
    say(f"report: {page}")
