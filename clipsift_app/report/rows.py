"""Several runs as rows of a table: one row per recipe, its seeds joined to a mean and a spread."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipsift_app.published import Publication, published
from clipsift_app.report.run_data import RunData, read_run
from clipsift_app.report.significance import sign_flip_p
from clipsift_common.errors import ClipsiftError

logger = logging.getLogger("clipsift")


@dataclass(frozen=True)
class Stat:
    """Mean over runs, sample standard deviation (None for one run), and how many they are."""

    mean: float
    spread: float | None
    num: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat | None:
        """Over the values that are there; None when none is."""
        present = [value for value in values if value is not None]
        if not present:
            return None
        spread = statistics.stdev(present) if len(present) > 1 else None
        return cls(statistics.mean(present), spread, len(present))


@dataclass(frozen=True)
class Row:
    """One recipe.

    Attributes:
        recipe: name.
        runs: its run directories, one per seed.
        seeds: theirs.
        kept: distinct samples kept as a share of the pool.
        samples_seen: training budget.
        imagenet: zero-shot accuracy; this and all that follow in [0, 1].
        groups: mean of each of DataComp's groups, None where a member is missing.
        tasks: task key -> main metric.
        num_tasks: number of tasks that every compared run has a score for.
        mean: over those tasks; the same tasks in every row.
        average: over 38 of 38 tasks; None when a run lacks one.
        difference: of ``mean`` to the baseline row's; its spread is that of a difference of two independent
            numbers, the root of the sum of squares. None for the baseline itself.
        p_tasks: p-value of the difference by flipping signs over tasks, each the mean of its seeds: would it be there
            on other tasks?
        p_seeds: the same over seeds that both rows have: would it be there with other seeds?
        publications: what is published of the row.
    """

    recipe: str
    runs: tuple[Path, ...]
    seeds: tuple[int | None, ...]
    kept: Stat | None
    samples_seen: Stat | None
    imagenet: Stat | None
    groups: dict[str, Stat | None]
    tasks: dict[str, Stat]
    num_tasks: int
    mean: Stat | None
    average: Stat | None
    difference: Stat | None = None
    p_tasks: float | None = None
    p_seeds: float | None = None
    publications: tuple[Publication, ...] = ()

    @property
    def publication(self) -> Publication | None:
        """The one with most verified numbers, the first of equals."""
        with_numbers = [entry for entry in self.publications if entry.numbers]
        return max(with_numbers, key=lambda e: sum(n.is_fact for n in e.numbers.values()), default=None)

    @property
    def clear(self) -> bool:
        """Whether the difference to the baseline is larger than its spread."""
        return (
            self.difference is not None
            and self.difference.spread is not None
            and abs(self.difference.mean) > self.difference.spread
        )


def compare(runs: Sequence[Path], baseline: str | None = None) -> list[Row]:
    """Join runs that differ in the seed only (that have one recipe name) into rows; the baseline's comes first.

    Args:
        runs: run directories.
        baseline: name of the recipe to compare with; by default the one that keeps most of the pool.

    Raises:
        ClipsiftError: when a folder is no run directory, or ``baseline`` is not among the recipes.
    """
    return join_runs([read_run(run) for run in runs], baseline)


def join_runs(runs: Sequence[RunData], baseline: str | None = None) -> list[Row]:
    """:func:`compare` for runs that are read already."""
    if not runs:
        raise ClipsiftError("compare: no runs given; name at least one run directory")
    recipes: dict[str, list[RunData]] = {}
    for run in runs:
        recipes.setdefault(run.name, []).append(run)
    if baseline is not None and baseline not in recipes:
        raise ClipsiftError(f"compare: no run of the baseline {baseline!r}; there are {', '.join(recipes)}")
    _warn(runs, recipes)
    evaluated = [run for run in runs if run.summary]
    common = set.intersection(*(set(run.tasks) for run in evaluated)) if evaluated else set()
    rows = [_row(name, members, common) for name, members in recipes.items()]
    first = baseline or max(rows, key=lambda row: row.kept.mean if row.kept else 0.0).recipe
    rows.sort(key=lambda row: row.recipe != first)
    means = {name: _means_by_seed(members, common) for name, members in recipes.items()}
    base = rows[0]
    return [base, *(_with_difference(row, base, common, means[row.recipe], means[base.recipe]) for row in rows[1:])]


def _row(name: str, runs: list[RunData], common: set[str]) -> Row:
    summaries: list[dict[str, Any]] = [run.summary for run in runs if run.summary]
    groups = dict.fromkeys(group for summary in summaries for group in summary["groups"])
    tasks = {
        key: [run.tasks[key]["main_metric"] for run in runs if key in run.tasks] for run in runs for key in run.tasks
    }
    means = [statistics.mean(run.tasks[key]["main_metric"] for key in common) for run in runs if run.summary and common]
    whole = all(summary["average"] is not None for summary in summaries)
    return Row(
        recipe=name,
        runs=tuple(run.path for run in runs),
        seeds=tuple(run.seed for run in runs),
        kept=Stat.of(run.kept_share for run in runs),
        samples_seen=Stat.of(run.training["samples_seen"] if run.training else None for run in runs),
        imagenet=Stat.of(summary["imagenet"] for summary in summaries),
        groups={group: Stat.of(summary["groups"].get(group) for summary in summaries) for group in groups},
        tasks={key: stat for key, values in tasks.items() if (stat := Stat.of(values))},
        num_tasks=len(common),
        mean=Stat.of(means),
        average=Stat.of(summary["average"] for summary in summaries) if whole else None,
        publications=published(runs[0].row),
    )


def _means_by_seed(runs: list[RunData], common: set[str]) -> dict[int, float]:
    """Seed -> mean over the tasks in ``common``, of the runs that have a seed and were evaluated."""
    return {
        run.seed: statistics.mean(run.tasks[key]["main_metric"] for key in common)
        for run in runs
        if run.summary and common and run.seed is not None
    }


def _with_difference(
    row: Row, baseline: Row, common: set[str], means: dict[int, float], base_means: dict[int, float]
) -> Row:
    if row.mean is None or baseline.mean is None:
        return row
    spreads = [row.mean.spread, baseline.mean.spread]
    spread = None if None in spreads else sum(value**2 for value in spreads if value is not None) ** 0.5
    num = min(row.mean.num, baseline.mean.num)
    return replace(
        row,
        difference=Stat(row.mean.mean - baseline.mean.mean, spread, num),
        p_tasks=sign_flip_p([row.tasks[key].mean - baseline.tasks[key].mean for key in sorted(common)]),
        p_seeds=sign_flip_p([means[seed] - base_means[seed] for seed in sorted(means.keys() & base_means)]),
    )


def _warn(runs: Sequence[RunData], recipes: dict[str, list[RunData]]) -> None:
    """Say what makes rows hard to compare."""
    for name, members in recipes.items():
        seeds = [run.seed for run in members if run.seed is not None]
        if len(set(seeds)) < len(seeds):
            logger.warning("compare: %s has a seed twice; its spread is too small", name)
    for setting in ("rules", "precision"):
        values = {str(run.summary[setting]) for run in runs if run.summary}
        if len(values) > 1:
            logger.warning("compare: the runs were evaluated with different %s: %s", setting, ", ".join(sorted(values)))
