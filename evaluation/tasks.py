"""The registry of evaluation tasks: ``tasks.yaml`` as Python values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from clipsift_common.errors import ClipsiftError


@dataclass(frozen=True)
class Task:
    """One evaluation task; the fields are explained at the head of ``tasks.yaml``."""

    key: str
    name: str
    kind: str
    main_metric: str | None
    size: int
    classes: int | None
    random: float | None
    folder: str
    groups: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_scored(self) -> bool:
        """Whether the task counts in the average."""
        return self.main_metric is not None


def _read_tasks() -> Mapping[str, Task]:
    blocks = yaml.safe_load(Path(__file__).with_name("tasks.yaml").read_text(encoding="utf-8"))
    return MappingProxyType(
        {key: Task(key=key, **block | {"groups": tuple(block["groups"])}) for key, block in blocks.items()}
    )


TASKS: Mapping[str, Task] = _read_tasks()
"""All tasks by key, in DataComp's order."""

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        group: tuple(task.key for task in TASKS.values() if group in task.groups)
        for group in ("ImageNet", "ImageNet dist. shifts", "VTAB", "Retrieval")
    }
)
"""Keys of the members of each group mean."""

SCORED: tuple[str, ...] = tuple(task.key for task in TASKS.values() if task.is_scored)
"""Keys of the 38 tasks of the average."""


def select_tasks(patterns: Sequence[str]) -> list[Task]:
    """Tasks that any of ``patterns`` names, each once, in DataComp's order.

    A pattern is a key (``vtab/dtd``), the name of a group (``VTAB``, in any case) or a glob on keys (``vtab/*``).

    Raises:
        ClipsiftError: for a pattern that names nothing.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        matched = _match(pattern)
        if not matched:
            known = ", ".join(GROUPS)
            raise ClipsiftError(
                f"tasks: {pattern} is no key, group ({known}) or glob of a task in evaluation/tasks.yaml"
            )
        chosen.update(matched)
    return [task for key, task in TASKS.items() if key in chosen]


def _match(pattern: str) -> list[str]:
    if pattern in TASKS:
        return [pattern]
    for group, members in GROUPS.items():
        if pattern.lower() == group.lower():
            return list(members)
    return [key for key in TASKS if fnmatchcase(key, pattern)]
