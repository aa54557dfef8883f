"""Which tasks are drawn together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.tasks import TASKS

FEW_TASKS = 13  # so many bars are read easily without groups
OTHERS = "Other tasks"
PANELS = {  # group of tasks.yaml -> title of its panel
    "ImageNet": "ImageNet and its shifts",
    "ImageNet dist. shifts": "ImageNet and its shifts",
    "VTAB": "VTAB",
    "Retrieval": "Retrieval",
}


def task_panels(tasks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Title -> entries of summary.json: one panel for a few tasks, one per group for many."""
    if len(tasks) <= FEW_TASKS:
        return {"Main metric": list(tasks)} if tasks else {}
    panels: dict[str, list[Mapping[str, Any]]] = {title: [] for title in (*PANELS.values(), OTHERS)}
    for task in tasks:
        panels[_panel(task["key"])].append(task)
    return {title: members for title, members in panels.items() if members}


def _panel(key: str) -> str:
    groups = TASKS[key].groups if key in TASKS else ()
    return next((PANELS[group] for group in groups if group in PANELS), OTHERS)
