"""The comparison of recipes as text: for a terminal, a README, a spreadsheet or a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clipsift_app.published import Number
from clipsift_app.report.headline import IMAGENET
from clipsift_app.report.rows import Row, Stat
from clipsift_common.errors import ClipsiftError

Format = Literal["table", "markdown", "csv", "latex"]
FORMATS: tuple[Format, ...] = get_args(Format)
_MAX_WIDTH = 400  # characters; no number is ever cut to fit a terminal
_ABSENT = "\N{EN DASH}"
_DOUBT = "\N{DAGGER}"  # behind a number that is not verified
FOOTNOTE = f"{_DOUBT} not verified: recalled, or quoted by others"


@dataclass(frozen=True)
class Column:
    """A column of the comparison: what it takes from a row and the factor and digits it is shown with."""

    title: str
    value: Callable[[Row], Stat | None]
    factor: float = 100
    digits: int = 1
    signed: bool = False
    published: Callable[[Row], Number | None] | None = None  # the number it is or is compared with

    def status(self, row: Row) -> str:
        """How the published number is known; empty without one."""
        number = self.published(row) if self.published else None
        return number.status if number else ""

    def show(self, row: Row, between: str = " ± ") -> str:
        """Mean and spread as text, ``between`` between them."""
        stat = self.value(row)
        if stat is None:
            return _ABSENT
        mean = f"{self.factor * stat.mean:{'+' if self.signed else ''},.{self.digits}f}"
        doubt = _DOUBT if self.status(row) not in ("", "verified") else ""
        return (mean if not stat.spread else f"{mean}{between}{self.factor * stat.spread:,.{self.digits}f}") + doubt


def _published_columns(name: str, ours: Callable[[Row], Stat | None]) -> list[Column]:
    """What is published, and the difference to it."""

    def number(row: Row) -> Number | None:
        return row.publication.numbers.get(name) if row.publication else None

    def theirs(row: Row) -> Stat | None:
        found = number(row)
        return Stat(found.value, None, 1) if found else None

    def difference(row: Row) -> Stat | None:
        found, mine = number(row), ours(row)
        return Stat(mine.mean - found.value, mine.spread, mine.num) if found and mine else None

    return [
        Column(f"published {name}", theirs, published=number),
        Column(f"vs published {name}", difference, signed=True, published=number),
    ]


def _p_value(row: Row, name: str) -> Stat | None:
    value = getattr(row, name)
    return None if value is None else Stat(value, None, 1)


def columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that hold a number in at least one row. Shares and accuracies are shown in percent."""
    groups = list(dict.fromkeys(group for row in rows for group in row.groups if group != IMAGENET))
    complete = all(row.average for row in rows)  # then the mean is the same number
    found = [
        Column("kept %", lambda row: row.kept),
        Column(IMAGENET, lambda row: row.imagenet),
        *(Column(group, lambda row, group=group: row.groups.get(group)) for group in groups),  # type: ignore[misc]
        Column(f"mean of {rows[0].num_tasks} tasks", lambda row: None if complete else row.mean),
        Column("average of 38", lambda row: row.average),
        Column(f"vs {rows[0].recipe}", lambda row: row.difference, signed=True),
        Column("p over tasks", lambda row: _p_value(row, "p_tasks"), factor=1, digits=3),
        Column("p over seeds", lambda row: _p_value(row, "p_seeds"), factor=1, digits=3),
        *_published_columns(IMAGENET, lambda row: row.imagenet),
        *_published_columns("Average", lambda row: row.average),
        Column("samples seen", lambda row: row.samples_seen, factor=1, digits=0),
    ]
    return [column for column in found if any(column.value(row) for row in rows)]


def format_comparison(rows: Sequence[Row], format: str = "table") -> str:
    """The rows of :func:`~clipsift_app.report.rows.compare` as text.

    Args:
        rows: at least one.
        format: ``table`` (for a terminal), ``markdown``, ``latex`` (booktabs): percent, mean ± spread; ``csv``:
            shares in [0, 1] with all digits, mean and spread in columns of their own.

    Raises:
        ClipsiftError: for another format.
    """
    makers = {"table": _table, "markdown": _markdown, "csv": _csv, "latex": _latex}
    if format not in makers:
        raise ClipsiftError(f"compare: unknown format {format!r}; choose one of {', '.join(FORMATS)}")
    return makers[format](rows)


def has_doubt(rows: Sequence[Row]) -> bool:
    """Whether some number shown is not verified, so that :data:`FOOTNOTE` is due."""
    return any(_DOUBT in column.show(row) for column in columns(rows) for row in rows)


def _table(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("recipe", no_wrap=True)
    for title in ("runs", *(column.title for column in shown)):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(Text(row.recipe), str(len(row.runs)), *(column.show(row) for column in shown))
    console = Console(file=io.StringIO(), width=_MAX_WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(
        [*(line.rstrip() for line in capture.get().splitlines()), *([FOOTNOTE] if has_doubt(rows) else [])]
    )


def _markdown(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    lines = [["recipe", "runs", *(column.title for column in shown)], ["---", *["---:"] * (len(shown) + 1)]]
    lines += [[row.recipe, str(len(row.runs)), *(column.show(row) for column in shown)] for row in rows]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{text}\n\n{FOOTNOTE}" if has_doubt(rows) else text


def _csv(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["recipe", "runs"]
    for column in shown:
        title = column.title.removesuffix(" %")
        head += [title, f"{title} spread", *([f"{title} status"] if column.published else [])]
    writer.writerow(head)
    for row in rows:
        cells: list[Any] = [row.recipe, len(row.runs)]
        for column in shown:
            stat = column.value(row)
            numbers = (stat.mean, stat.spread) if stat else (None, None)
            cells += ["" if number is None else repr(number) for number in numbers]
            cells += [column.status(row)] if column.published else []
        writer.writerow(cells)
    return out.getvalue().rstrip("\n")


def _latex(rows: Sequence[Row]) -> str:
    shown = columns(rows)
    head = ["recipe", "runs", *(column.title for column in shown)]
    lines = [r"\begin{tabular}{l" + "r" * (len(shown) + 1) + "}", r"\toprule"]
    lines += [" & ".join(_escape_latex(title) for title in head) + r" \\", r"\midrule"]
    for row in rows:
        cells = [_latex_cell(column.show(row, r" \pm ")) for column in shown]
        lines.append(" & ".join([_escape_latex(row.recipe), str(len(row.runs)), *cells]) + r" \\")
    note = [rf"% {FOOTNOTE}".replace(_DOUBT, r"$\dagger$")] if has_doubt(rows) else []
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *note])


def _latex_cell(text: str) -> str:
    return "--" if text == _ABSENT else "$" + text.replace(",", "{,}").replace(_DOUBT, r"^\dagger") + "$"


def _escape_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(letter, "\\" + letter if letter in "&%$#_{}" else letter) for letter in text)
