"""What a part of the acceptance program found: values, the bounds they are held against, verdicts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clipsift_common.files import read_json, write_text

OK, FAILS, MEASURED = "ok", "FAILS", "measured"


@dataclass(frozen=True)
class Row:
    """One thing that was looked at. ``bound`` is empty for what is only measured."""

    name: str
    value: str
    bound: str
    verdict: str


def measured(name: str, value: float | str) -> Row:
    """A value without a bound."""
    return Row(name, _text(value), "", MEASURED)


def at_least(name: str, value: float, bound: float) -> Row:
    return Row(name, _text(value), f">= {bound:g}", OK if value >= bound else FAILS)


def at_most(name: str, value: float, bound: float) -> Row:
    return Row(name, _text(value), f"<= {bound:g}", OK if value <= bound else FAILS)


def holds(name: str, is_so: bool, detail: str = "") -> Row:
    """Something that is so or is not."""
    return Row(name, detail or ("yes" if is_so else "no"), "yes", OK if is_so else FAILS)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


class Results:
    """Rows by part, in a JSON file that a later start goes on from."""

    def __init__(self, path: Path, machine: str) -> None:
        self.path, self.machine = path, machine
        self.parts: dict[str, list[Row]] = {}
        if path.is_file() and (kept := read_json(path)).get("machine") == machine:
            self.parts = {part: [Row(**row) for row in rows] for part, rows in kept["parts"].items()}

    def keep(self, part: str, rows: Sequence[Row]) -> None:
        self.parts[part] = list(rows)
        parts = {name: [asdict(row) for row in rows] for name, rows in self.parts.items()}
        write_text(self.path, json.dumps({"machine": self.machine, "parts": parts}, indent=2) + "\n")

    @property
    def failures(self) -> list[Row]:
        return [row for rows in self.parts.values() for row in rows if row.verdict == FAILS]

    def markdown(self) -> str:
        lines = [f"{self.machine}", "", "| part | what | value | bound | verdict |", "|---|---|---|---|---|"]
        for part, rows in sorted(self.parts.items()):
            lines += [f"| {part} | {row.name} | {row.value} | {row.bound} | {row.verdict} |" for row in rows]
        return "\n".join(lines) + "\n"
