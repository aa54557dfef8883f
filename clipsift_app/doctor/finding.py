"""What a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from rich.table import Table
from rich.text import Text

T = TypeVar("T")
Status = Literal["ok", "warn", "fail"]
_STYLES = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table. ``remedy`` is given when the status is not ``ok``."""

    check: str
    status: Status
    text: str
    remedy: str = ""


def format_findings(findings: Sequence[Finding]) -> Table:
    """The table for a terminal."""
    table = Table()
    for title in ("check", "", "found", "remedy"):
        table.add_column(title, overflow="fold")  # a path is never cut
    for finding in findings:
        mark = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(finding.check, mark, Text(finding.text), Text(finding.remedy))
    return table


def evenly(values: Sequence[T], count: int) -> list[T]:
    """``count`` of the values, from the first to the last."""
    return [values[round(number * (len(values) - 1) / max(count - 1, 1))] for number in range(count)]


def shorten_list(values: Sequence[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    more = len(values) - most
    return ", ".join(values[:most]) + (f" and {more:,} more" if more > 0 else "")


def size(num_bytes: float) -> str:
    """``1234567`` -> ``1.2 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(num_bytes) < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"
