"""A summary as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from clipsift_common.progress import format_duration
from evaluation.tasks import SCORED, TASKS


def format_table(summary: dict[str, Any]) -> Table:
    """Scores task by task with the level of a guess and the time, then the group means and the average.

    Args:
        summary: as :func:`evaluation.summarise` makes it, or ``summary.json`` read back.
    """
    table = Table(title=f"Evaluation ({summary['rules']} rules, {summary['precision']})")
    table.add_column("task")
    table.add_column("group")
    table.add_column("metric")
    for name in ("score", "random", "samples", "time"):
        table.add_column(name, justify="right")
    for row in summary["tasks"]:
        table.add_row(
            row["dataset"],
            ", ".join(TASKS[row["key"]].groups),
            row["main_metric_name"] or "not averaged",
            _score(row["main_metric"]),
            _score(row["random"]),
            "-" if row["num_samples"] is None else f"{row['num_samples']:,}",
            "-" if row["seconds"] is None else format_duration(row["seconds"]),
        )
    table.add_section()
    for group, score in summary["groups"].items():
        table.add_row(f"[bold]{group}", "", "mean", _score(score))
    table.add_row("[bold]Average", "", f"{summary['num_scored']} of {len(SCORED)} tasks", _score(summary["average"]))
    if summary["average"] is None and summary["num_scored"]:
        table.add_row("", "", "mean of those", _score(summary["mean_of_scored"]))
    return table


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
