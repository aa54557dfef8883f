"""Published results of the rows under ``configs/reproduce``, each number with how it is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from clipsift_common.errors import ClipsiftError

STATUSES = ("verified", "second_hand", "recalled")  # from the surest to the least sure

# Column of published.yaml -> its name here, and the group of evaluation/kinds/groups.py that it is the mean of.
COLUMNS = {
    "imagenet": "ImageNet",
    "shifts": "ImageNet dist. shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
    "average": "Average",
}
_FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Number:
    """A published accuracy in [0, 1]. ``status``: one of :data:`STATUSES`; only ``verified`` is a fact."""

    value: float
    status: str

    @property
    def is_fact(self) -> bool:
        return self.status == "verified"


@dataclass(frozen=True)
class Publication:
    """One published row of a table.

    Attributes:
        row: the name of its config.
        source: title of the work.
        pool: size of the pool that was chosen from, in words.
        method: what was kept.
        size: pairs kept, in words; empty when not known.
        numbers: by the names in :data:`COLUMNS`.
        known: what is known without numbers.
        note: what to keep in mind when comparing.
    """

    row: str
    source: str
    pool: str
    method: str
    size: str
    numbers: dict[str, Number]
    known: str
    note: str

    def __str__(self) -> str:
        """One line: the numbers in percent, grouped by how they are known."""
        parts = []
        for status in STATUSES:
            found = [f"{name} {100 * n.value:.1f}" for name, n in self.numbers.items() if n.status == status]
            parts += [f"{', '.join(found)} ({status.replace('_', '-')})"] if found else []
        return "; ".join(parts) or self.known


@cache
def publications() -> tuple[Publication, ...]:
    """All of them, in the order of the file."""
    return _parse(yaml.safe_load(_FILE.read_text(encoding="utf-8")))


def published(row: str | None) -> tuple[Publication, ...]:
    """Those of a row; none for a name that is no published row."""
    return tuple(entry for entry in publications() if entry.row == row)


def check_row(row: str | None) -> None:
    """Raise :class:`ClipsiftError` for the name of a row that is not published."""
    if row is not None and not published(row):
        raise ClipsiftError(f"published: no published row is named {row!r}; {_FILE.name} lists them")


def _parse(values: dict[str, Any]) -> tuple[Publication, ...]:
    sources, found = values["sources"], []
    for row in values["rows"]:
        numbers = {
            COLUMNS[column]: Number(value / 100, status)
            for column in COLUMNS
            for status in STATUSES
            if (value := row.get(status, {}).get(column)) is not None
        }
        source = sources[row["source"]]
        words = {name: str(row.get(name, "")) for name in ("pool", "method", "size", "known")}
        found.append(Publication(row["row"], source["title"], numbers=numbers, note=source.get("note", ""), **words))
    return tuple(found)
