"""The page that puts several recipes side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipsift_app.report.comparison_plots import dots, recipe_bars
from clipsift_app.report.figures import Plot
from clipsift_app.report.headline import percent, points
from clipsift_app.report.page import render, show_bands
from clipsift_app.report.pictures import Pairs, PictureIndex, choose_bands
from clipsift_app.report.rows import Row, Stat, join_runs
from clipsift_app.report.run_data import RunData, read_run
from clipsift_app.report.score_sample import read_scores
from clipsift_app.report.tables import FOOTNOTE, columns, has_doubt
from clipsift_app.report.task_panels import task_panels
from clipsift_app.report.truth import Truth, open_truth
from selection.overlap import jaccard, overlaps

SECTIONS = {
    "bars": "Recipes side by side",
    "tasks": "Accuracy per task",
    "kinds": "What each recipe kept of each kind",
    "overlap": "Overlap of the subsets",
    "pictures": "Dropped first, kept last",
    "runs": "Runs",
}


@dataclass(frozen=True)
class _Run:
    seed: int | None
    path: str
    link: str | None


def build_comparison_page(
    runs: Sequence[Path], out: Path, index: PictureIndex | None = None, truth: Path | None = None
) -> Path:
    """Write ``<out>/index.html``, one self-contained page that compares ``runs``, and its plots as PNG beside it.

    Runs that differ in the seed only are one recipe. Pictures and overlaps are those of a recipe's first run. The
    page links to the runs' own reports that exist when it is made.

    Args:
        runs: run directories.
        out: folder for the page.
        index: of the pool, for pictures.
        truth: parquet file with columns uid and kind, for runs whose own configuration names none.

    Returns the path of the page.

    Raises:
        ClipsiftError: when one of ``runs`` is no run directory, or a file in it is damaged.
    """
    data = [read_run(run) for run in runs]
    rows = join_runs(data)
    members = {row.recipe: [run for run in data if run.name == row.recipe] for row in rows}
    known = Truth(truth) if truth is not None else None
    content: dict[str, Any] = {
        "bars": _bars(rows),
        "tasks": _task_dots(rows, data),
        "kinds": _kinds(members, known),
        "overlap": _overlap({name: runs[0] for name, runs in members.items()}),
        "pictures": _pictures(members, index, known) if index is not None else {},
        "runs": {name: [_linked(run, out) for run in runs] for name, runs in members.items()},
    }
    for plot in (*content["bars"], *content["tasks"], *content["kinds"].get("plots", [])):
        plot.save(out)
    more = {
        "rows": rows,
        "columns": columns(rows),
        "lede": _sentence(rows),
        "footnote": FOOTNOTE if has_doubt(rows) else "",
        "made_from": f"{len(data)} run directories",
    }
    return render("comparison.html", out / "index.html", SECTIONS, content, title="Recipes compared", **more)


def _sentence(rows: Sequence[Row]) -> str:
    """What came out, in words that the numbers bear."""
    scored = [row for row in rows if row.mean is not None]
    if not scored:
        evaluated = any(row.tasks for row in rows)
        return "The runs have no task in common." if evaluated else "No run has been evaluated yet."
    best = max(scored, key=lambda row: row.mean.mean if row.mean else 0.0)
    assert best.mean is not None
    text = f"{best.recipe} is best: {percent(best.mean.mean)} over {best.num_tasks} tasks"
    if best.difference is None:
        return text + f", the baseline itself, of {len(rows)} recipes."
    spread = best.difference.spread
    if spread is None:
        return text + f", {points(best.difference.mean)} points against {rows[0].recipe}; one seed each, so no spread."
    verdict = "more than the spread" if best.clear else "within the spread"
    return text + f", {points(best.difference.mean)} ± {100 * spread:.1f} points against {rows[0].recipe}: {verdict}."


def _bars(rows: Sequence[Row]) -> list[Plot]:
    plots = [
        recipe_bars("imagenet", "ImageNet", rows, lambda row: row.imagenet),
        recipe_bars("average", "Average of 38 tasks", rows, lambda row: row.average),
        None
        if all(row.average for row in rows)
        else recipe_bars("mean", f"Mean of {rows[0].num_tasks} tasks", rows, lambda row: row.mean),
    ]
    return [plot for plot in plots if plot is not None]


def _task_dots(rows: Sequence[Row], runs: Sequence[RunData]) -> list[Plot]:
    tasks = {key: entry for run in runs for key, entry in run.tasks.items()}
    series = {row.recipe: row.tasks for row in rows if row.tasks}
    return [
        dots(
            f"tasks_{title}",
            title,
            {task["key"]: task["dataset"] for task in panel},
            {
                name: {task["key"]: stats[task["key"]] for task in panel if task["key"] in stats}
                for name, stats in series.items()
            },
            {task["key"]: task["random"] for task in panel},
        )
        for title, panel in task_panels(list(tasks.values())).items()
    ]


def _kinds(members: Mapping[str, Sequence[RunData]], given: Truth | None) -> dict[str, Any]:
    """Kind -> recipe -> share kept, as table and as plot; empty without truth or subsets."""
    series: dict[str, dict[str, Stat]] = {}
    counts: dict[str, int] = {}
    for name, runs in members.items():
        truths = [_truth_of(run, given) for run in runs]
        shares = [truth.shares(run) for truth, run in zip(truths, runs) if truth is not None]
        kinds = dict.fromkeys(kind for share in shares for kind in share)
        if kinds:
            series[name] = {kind: stat for kind in kinds if (stat := Stat.of(share.get(kind) for share in shares))}
            counts = counts or next(truth.counts for truth in truths if truth)
    if not series:
        return {}
    labels = {kind: f"{kind} ({number:,})" for kind, number in counts.items()}
    plot = dots("kinds", "Share kept of each kind", labels, series, {})
    table = {kind: [stats.get(kind) for stats in series.values()] for kind in counts}
    return {"plots": [plot], "table": table, "recipes": list(series)}


def _truth_of(run: RunData, given: Truth | None) -> Truth | None:
    """The kinds of the run's own pool (runs of other seeds may have other pools), else those that were given."""
    return open_truth(run.truth) if run.truth is not None else given


def _overlap(runs: Mapping[str, RunData]) -> dict[str, Any]:
    """Jaccard index of each two recipes' subsets; empty for fewer than two."""
    subsets = {name: run.subset for name, run in runs.items() if run.subset is not None}
    if len(subsets) < 2:
        return {}
    return {"names": list(subsets), "values": jaccard(overlaps(list(subsets.values())))}


def _pictures(members: Mapping[str, Sequence[RunData]], index: PictureIndex, given: Truth | None) -> dict[str, Any]:
    """Recipe -> what its first step likes least, and what its last step only just kept."""
    found = {}
    for name, runs in members.items():
        run = runs[0]
        sample = read_scores(run.scores_folder, run.subset) if run.subset is not None else None
        if sample is None or not run.steps or not {run.steps[0]["name"], run.steps[-1]["name"]} <= set(sample.columns):
            continue
        bands = choose_bands(sample, run.steps[0]["name"], ["Worst dropped"])
        bands += choose_bands(sample, run.steps[-1]["name"], ["Worst kept"])
        pairs = Pairs(index, sample, [band.rows for band in bands])
        if shown := show_bands(pairs, sample, bands, _truth_of(run, given)):
            found[name] = shown
    return found


def _linked(run: RunData, out: Path) -> _Run:
    report = run.path / "report" / "index.html"
    link = quote(Path(os.path.relpath(report, out)).as_posix()) if report.is_file() else None
    return _Run(run.seed, str(run.path), link)
