"""A run in a few numbers: what it kept, what it saw, what it reached, and what was published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsift_app.published import Number, Publication
from clipsift_app.report.run_data import RunData

IMAGENET = "ImageNet"  # the group of one that summary.json also calls "imagenet"


@dataclass(frozen=True)
class Tile:
    """A number with its name and a remark."""

    label: str
    value: str
    note: str = ""
    main: bool = False


@dataclass(frozen=True)
class Stage:
    """What was left after a step or a set operation; ``share`` is of the pool."""

    name: str
    condition: str
    num_kept: int
    share: float


@dataclass(frozen=True)
class PublishedRow:
    """Ours, in [0, 1], beside the published number."""

    label: str
    ours: float | None
    published: Number

    @property
    def difference(self) -> float | None:
        return None if self.ours is None else self.ours - self.published.value


@dataclass(frozen=True)
class Comparison:
    """A publication of the run's row, number by number."""

    publication: Publication
    rows: list[PublishedRow]


def percent(value: float | None) -> str:
    """``0.2345`` -> ``23.4%``; an absent number is a dash."""
    return "\N{EN DASH}" if value is None else f"{value:.1%}"


def points(value: float | None) -> str:
    """A difference of two shares in percentage points, always with its sign."""
    return "\N{EN DASH}" if value is None else f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def count(value: float) -> str:
    """``12800000`` -> ``12.8 M``; below a million every digit."""
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.4g} {letter}"
    return f"{value:,.0f}"


def sentence(run: RunData) -> str:
    """What the run is, in words."""
    parts = []
    if run.selection is not None:
        names = ", then ".join(dict.fromkeys(step["name"] for step in run.steps))
        kept, pool = count(run.selection["num_unique"]), count(run.selection["num_pool"])
        parts.append(f"Kept {kept} of {pool} pairs" + (f" by {names}" if names else ""))
    if run.training is not None:
        seen, batch = count(run.training["samples_seen"]), count(run.training["global_batch"])
        parts.append(f"trained on {seen} samples in {run.training['steps']:,} steps of {batch}")
    if run.seed is not None:
        parts.append(f"seed {run.seed}")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else "Nothing has been written here yet."


def tiles(run: RunData) -> list[Tile]:
    """The headline numbers of what there is."""
    return [*_evaluation_tiles(run.summary), *_data_tiles(run)]


def _evaluation_tiles(summary: dict[str, Any] | None) -> list[Tile]:
    if summary is None:
        return []
    total = summary["num_scored"] + len(summary["missing"])
    found = []
    if summary["imagenet"] is not None:
        found.append(Tile(IMAGENET, percent(summary["imagenet"]), "zero-shot accuracy", main=True))
    if summary["average"] is not None:
        found.append(Tile("Average", percent(summary["average"]), f"all {total} tasks", main=True))
    else:
        found.append(
            Tile("Tasks scored", f"{summary['num_scored']}/{total}", "no average: tasks are missing", main=True)
        )
        if summary["mean_of_scored"] is not None:
            note = f"of {summary['num_scored']} tasks only; not the average of {total}"
            found.append(Tile("Mean of scored", percent(summary["mean_of_scored"]), note))
    groups = summary["groups"].items()
    return found + [Tile(name, percent(score)) for name, score in groups if score is not None and name != IMAGENET]


def _data_tiles(run: RunData) -> list[Tile]:
    found = []
    if run.selection is not None and run.kept_share is not None:
        note = f"{percent(run.kept_share)} of {count(run.selection['num_pool'])}"
        found.append(Tile("Pairs kept", count(run.selection["num_unique"]), note))
        if run.selection["num_kept"] != run.selection["num_unique"]:
            found.append(Tile("With repeats", count(run.selection["num_kept"]), "samples in the subset file"))
    if run.training is not None:
        passes = run.training["samples_seen"] / max(run.training["subset_size"], 1)
        found.append(Tile("Samples seen", count(run.training["samples_seen"]), f"{passes:.3g} passes over the subset"))
    return found


def funnel(run: RunData) -> list[Stage]:
    """The selection's steps and set operations in order."""
    if run.selection is None:
        return []
    stages = []
    for step in run.steps:
        condition = "" if step["threshold"] is None else f"at least {step['threshold']:.4g}"
        stages.append((step["name"], condition, step["num_kept"]))
    stages += [
        (operation["operation"], f"with {Path(operation['file']).name}", operation["num_kept"])
        for operation in run.selection["operations"]
    ]
    pool = max(run.selection["num_pool"], 1)
    return [Stage(name, condition, kept, kept / pool) for name, condition, kept in stages]


def comparisons(run: RunData, publications: Sequence[Publication]) -> list[Comparison]:
    """The run beside each publication; none before it is evaluated."""
    if run.summary is None:
        return []
    ours = run.summary["groups"] | {IMAGENET: run.summary["imagenet"], "Average": run.summary["average"]}
    return [
        Comparison(entry, [PublishedRow(label, ours.get(label), number) for label, number in entry.numbers.items()])
        for entry in publications
    ]
