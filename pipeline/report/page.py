"""The report of one run: collects what there is to show and fills the template."""

from __future__ import annotations

import math
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from common.files import write_text
from pipeline.report import headline
from pipeline.report.agreement import agreement
from pipeline.report.captions import caption_change
from pipeline.report.figures import Plot, theme_css
from pipeline.report.kinds import Truth
from pipeline.report.pictures import BAND_SHARE, PictureIndex, picture_bands
from pipeline.report.plots import kind_bars, score_histogram, task_bars, training_curves
from pipeline.report.run_data import RunData, read_run
from pipeline.report.score_sample import ScoreSample, read_scores

TEMPLATES = Path(__file__).parent / "templates"
PACKAGES = ("clipsift", "torch", "lightning", "open_clip_torch", "webdataset", "numpy")
MAX_PICTURE_COLUMNS = 3  # a page with more pictures is too heavy to mail
PANEL_TASKS = 13  # more bars than that are read more easily in groups
TASK_GROUPS = ("ImageNet and its shifts", "VTAB", "Retrieval", "Other tasks")  # DataComp's
DEFAULT_SHARE = 0.3  # what "the best" means in the overlap of columns when the run kept everything

SECTIONS = {
    "tasks": "Zero-shot accuracy",
    "published": "Against the published numbers",
    "selection": "Selection",
    "kinds": "What was kept of each kind",
    "pictures": "Kept and dropped",
    "captions": "Captions and images, before and after",
    "agreement": "Do the scores agree?",
    "training": "Training",
    "losses": "Data losses",
    "provenance": "Provenance",
}


def build_report(
    run: Path,
    index: PictureIndex | None = None,
    truth: Path | None = None,
    published: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``<run>/report/index.html``, one file that needs nothing else, and its plots as PNG beside it.

    A section whose files are not there is left out.

    Args:
        run: the run directory.
        index: of the pool, for pictures and captions.
        truth: parquet file with columns uid and kind, to say how much of each kind was kept.
        published: numbers to compare with, in [0, 1], under the keys of summary.json (``imagenet``, ``groups``,
            ``average``), with ``source`` and ``status`` (shown as it is, such as "verified" or "recalled").

    Returns the path of the page.

    Raises:
        ClipsiftError: when ``run`` is no run directory, or one of its files is damaged.
    """
    data = read_run(run)
    known = Truth(truth) if truth is not None else None
    sample = read_scores(data.scores_folder, data.subset)
    content = _content(data, sample, index, known, published)
    folder = data.path / "report"
    for plots in (content["tasks"], content["training"], content["selection"]["plots"], content["kinds"]):
        for plot in plots:
            plot.save(folder)
    more = {"run": data, "sample": sample, "band_share": BAND_SHARE, "lede": headline.sentence(data)}
    return render("report.html", folder / "index.html", SECTIONS, content, title=data.name, made_from=data.path, **more)


def render(template: str, path: Path, titles: Mapping[str, str], content: Mapping[str, Any], **more: Any) -> Path:
    """Fill a template and write the page. Every value is escaped; what is empty in ``content`` has no section."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": headline.percent, "points": headline.points, "count": headline.count}
    environment.filters["breakable"] = _breakable
    present = {name: title for name, title in titles.items() if any_content(content[name])}
    page = environment.get_template(template).render(
        content=content, sections=present, light=theme_css(dark=False), dark=theme_css(dark=True), **more
    )
    # Names inside tars may hold bytes that are no text; they come here as lone surrogates.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    return path


def _breakable(name: str) -> Markup:
    """A name that may be broken after an underscore, where a table's head has no room for it."""
    return Markup(re.sub(r"(?<=\w{3}_)(?=\w)", "<wbr>", str(escape(name))))


def any_content(part: Any) -> bool:
    """Whether a section has something to show: a dict does when one of its values does."""
    return any(part.values()) if isinstance(part, dict) else bool(part)


def _content(
    run: RunData,
    sample: ScoreSample | None,
    index: PictureIndex | None,
    truth: Truth | None,
    published: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The parts of the page by the names of :data:`SECTIONS`."""
    shares = truth.shares(run) if truth else {}
    with_pictures = index is not None and sample is not None
    return {
        "tiles": headline.tiles(run),
        "tasks": [task_bars(name, tasks) for name, tasks in task_panels(list(run.tasks.values())).items()],
        "published": headline.published_rows(run.summary, published),
        "publication": published or {},
        "selection": {"steps": run.steps, "plots": _score_plots(run, sample) if sample else []},
        "kinds": [kind_bars(shares, truth.counts, run.kept_share)] if truth and shares else [],
        "pictures": _picture_sets(run, sample, index, truth) if with_pictures else {},
        "captions": caption_change(index, sample) if with_pictures else None,
        "agreement": agreement(sample.columns, _share(run)) if sample else None,
        "training": training_curves(run.metrics, _chance_loss(run)) if run.metrics else [],
        "losses": {stage: report for stage, report in run.losses.items() if report["samples"]},
        "provenance": _provenance(run),
    }


def task_panels(tasks: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Title -> tasks: one panel for a few tasks, one per group for many."""
    if len(tasks) <= PANEL_TASKS:
        return {"Main metric": list(tasks)} if tasks else {}
    panels = {title: [task for task in tasks if task_group(task["key"]) == title] for title in TASK_GROUPS}
    return {title: members for title, members in panels.items() if members}


def task_group(key: str) -> str:
    """The panel (of :data:`TASK_GROUPS`) a task is shown in."""
    shifts, vtab, retrieval, others = TASK_GROUPS
    if key.startswith("imagenet") or key == "objectnet":
        return shifts
    if key.startswith("vtab/") or key == "sun397":
        return vtab
    return retrieval if key.startswith(("retrieval/", "misc/winogavil")) else others


def _score_plots(run: RunData, sample: ScoreSample) -> list[Plot]:
    plots = []
    for name, scores in sample.columns.items():
        steps = [step for step in run.steps if step["name"] == name]
        cuts = [step["threshold"] for step in steps if step.get("threshold") is not None]
        note = "" if steps else "Scored, but no step of the recipe uses it."
        plot = score_histogram(name, scores, sample.kept, cuts, note)
        if plot is not None:
            plots.append(plot)
    return plots


def _picture_sets(run: RunData, sample: ScoreSample, index: PictureIndex, truth: Truth | None) -> dict[str, list[Any]]:
    """Column -> bands, for the columns that the recipe's steps use (for all if it has none)."""
    used = [step["name"] for step in run.steps if step["name"] in sample.columns] or list(sample.columns)
    columns = list(dict.fromkeys(used))[:MAX_PICTURE_COLUMNS]
    return {name: bands for name in columns if (bands := picture_bands(index, sample, name, truth))}


def _share(run: RunData) -> float:
    return run.kept_share if run.kept_share and run.kept_share < 1 else DEFAULT_SHARE


def _chance_loss(run: RunData) -> float | None:
    return math.log(run.training["global_batch"]) if run.training else None


def _provenance(run: RunData) -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    fingerprints = {
        "subset": (run.selection or {}).get("fingerprint"),
        **{f"subset's {name}": value for name, value in (run.selection or {}).get("parents", {}).items()},
        **{f"training's {name}": (run.training or {}).get(name) for name in ("subset", "config", "weights")},
        "evaluated weights": (run.summary or {}).get("weights"),
    }
    return {
        "command": shlex.join(["clipsift", "reproduce", "--config", str(run.path / "config.yaml")]),
        "fingerprints": {name: value for name, value in fingerprints.items() if value},
        "versions": versions,
        "config": run.config_text,
    }
