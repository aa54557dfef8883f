"""The report of one run: collects what there is to show and fills the template."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from clipsift_app.published import Publication, published
from clipsift_app.report import headline
from clipsift_app.report.agreement import agreement
from clipsift_app.report.captions import caption_change, caption_rows
from clipsift_app.report.figures import Plot, theme_css
from clipsift_app.report.pictures import BAND_SHARE, Band, Pairs, PictureIndex, choose_bands, pictures, quantile_band
from clipsift_app.report.plots import kind_bars, score_histogram, task_bars, training_curves
from clipsift_app.report.provenance import broken_links, provenance
from clipsift_app.report.run_data import RunData, read_run
from clipsift_app.report.score_sample import ScoreSample, read_scores
from clipsift_app.report.task_panels import task_panels
from clipsift_app.report.truth import Truth
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import write_text

TEMPLATES = Path(__file__).parent / "templates"
MAX_PICTURE_COLUMNS = 3  # a page with more pictures is too heavy to mail
QUANTILES = (0.99, 0.8, 0.6, 0.4, 0.2, 0.01)  # of each score, whose pairs are shown
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
    publications: Sequence[Publication] | None = None,
    baseline: Path | None = None,
    quantiles: Sequence[float] = QUANTILES,
) -> Path:
    """Write ``<run>/report/index.html``, one file that needs nothing else, and its plots as PNG beside it.

    A section whose files are not there is left out.

    Args:
        run: the run directory.
        index: of the pool, for pictures and captions.
        truth: parquet file with columns uid and kind, to say how much of each kind was kept.
        publications: what to compare with; by default what is published of the run's row (its ``published`` setting,
            else its name).
        baseline: another run directory, shown beside this one task by task.
        quantiles: of each score over the pool, in [0, 1], whose pairs are shown.

    Returns the path of the page.

    Raises:
        ClipsiftError: when ``run`` or ``baseline`` is no run directory, one of its files is damaged, or a quantile is
            none.
    """
    if not all(0 <= quantile <= 1 for quantile in quantiles):
        raise ClipsiftError(f"quantiles: are in [0, 1], got {list(quantiles)}")
    data = read_run(run)
    other = read_run(baseline) if baseline else None
    known = Truth(truth) if truth is not None else None
    sample = read_scores(data.scores_folder, data.subset)
    content = _content(data, sample, known, other) | {
        "published": headline.comparisons(data, published(data.row) if publications is None else publications),
        "pictures": {},
        "captions": None,
    }
    if index is not None and sample is not None:
        content |= _pair_content(data, sample, index, known, quantiles)
    folder = data.path / "report"
    for plot in (*content["tasks"], *content["training"], *content["selection"]["plots"], *content["kinds"]):
        plot.save(folder)
    more = {"run": data, "sample": sample, "band_share": BAND_SHARE, "lede": headline.sentence(data)}
    more["against"] = _against(data, other) if other else ""
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
    environment.filters |= {
        "percent": headline.percent,
        "points": headline.points,
        "count": headline.count,
        "breakable": _breakable,
    }
    present = {name: title for name, title in titles.items() if _any_content(content[name])}
    page = environment.get_template(template).render(
        content=content, sections=present, light=theme_css(dark=False), dark=theme_css(dark=True), **more
    )
    # Names inside tars may hold bytes that are no text; they come here as lone surrogates.
    write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    return path


def _breakable(name: str) -> Markup:
    """A name that may be broken after an underscore, where a table's head has no room for it."""
    return Markup(re.sub(r"(?<=\w{3}_)(?=\w)", "<wbr>", str(escape(name))))


def _any_content(part: Any) -> bool:
    """Whether a section has something to show: a dict does when one of its values does."""
    return any(part.values()) if isinstance(part, dict) else bool(part)


def _against(run: RunData, other: RunData) -> str:
    """How the run stands to the baseline run, over the tasks that both have."""
    common = [key for key in run.tasks if key in other.tasks]
    if not common:
        return f"No task is scored in both this run and {other.name}."
    gains = [run.tasks[key]["main_metric"] - other.tasks[key]["main_metric"] for key in common]
    better, mean = sum(gain > 0 for gain in gains), headline.points(sum(gains) / len(gains))
    return f"Against {other.name}: {mean} points on the mean of {len(common)} tasks, better on {better} of them."


def _content(
    run: RunData, sample: ScoreSample | None, truth: Truth | None, other: RunData | None = None
) -> dict[str, Any]:
    """What the run's own files give, by the names of :data:`SECTIONS`."""
    shares = truth.shares(run) if truth else {}
    share = run.kept_share if run.kept_share and run.kept_share < 1 else DEFAULT_SHARE
    before = {key: task["main_metric"] for key, task in other.tasks.items()} if other else {}
    name = other.name if other else ""
    chance_loss = math.log(run.training["global_batch"]) if run.training else None
    return {
        "tiles": headline.tiles(run),
        "warnings": broken_links(run),
        "tasks": [
            task_bars(title, tasks, before, name) for title, tasks in task_panels(list(run.tasks.values())).items()
        ],
        "selection": {"funnel": headline.funnel(run), "plots": _score_plots(run, sample) if sample else []},
        "kinds": [kind_bars(shares, truth.counts, run.kept_share)] if truth and shares else [],
        "agreement": agreement(sample.columns, share) if sample else None,
        "training": training_curves(run.metrics, chance_loss) if run.metrics else [],
        "losses": {stage: report for stage, report in run.losses.items() if report["samples"]},
        "provenance": provenance(run),
    }


def _pair_content(
    run: RunData, sample: ScoreSample, index: PictureIndex, truth: Truth | None, quantiles: Sequence[float]
) -> dict[str, Any]:
    """What it takes the pool's shards to show: pictures of the columns that the recipe uses, and captions."""
    used = [step["name"] for step in run.steps if step["name"] in sample.columns] or list(sample.columns)
    columns = list(dict.fromkeys(used))[:MAX_PICTURE_COLUMNS]
    bands = {name: [*choose_bands(sample, name), quantile_band(sample, name, quantiles)] for name in columns}
    before, after = caption_rows(sample)
    pairs = Pairs(index, sample, [before, after, *(band.rows for chosen in bands.values() for band in chosen)])
    return {
        "pictures": {name: shown for name in columns if (shown := show_bands(pairs, sample, bands[name], truth))},
        "captions": caption_change(pairs, before, after),
    }


def show_bands(pairs: Pairs, sample: ScoreSample, bands: list[Band], truth: Truth | None) -> list[dict[str, Any]]:
    """The bands that have a picture to show, for the template: title, column, kept, pictures."""
    shown = [vars(band) | {"pictures": pictures(pairs, sample, band, truth)} for band in bands]
    return [band for band in shown if band["pictures"]]


def _score_plots(run: RunData, sample: ScoreSample) -> list[Plot]:
    plots = []
    for name, scores in sample.columns.items():
        steps = [step for step in run.steps if step["name"] == name]
        cuts = [step["threshold"] for step in steps if step["threshold"] is not None]
        note = "" if steps else "Scored, but no step of the recipe uses it."
        plot = score_histogram(name, scores, sample.kept, cuts, note)
        if plot is not None:
            plots.append(plot)
    return plots
