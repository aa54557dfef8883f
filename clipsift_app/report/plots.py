"""The plots of a run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from clipsift_app.report.figures import COLOURS, PANEL, Plot, draw, shorten

BINS = 60
CURVE_POINTS = 400  # more cannot be told apart in a panel; longer runs are averaged in stretches
ROW_HEIGHT = 0.19  # inches per bar
BARS_MARGIN = 0.56  # inches for the legend above bars and the axis below

_COUNTS = EngFormatter(sep="")


def _number(value: float, _: object = None) -> str:
    return _COUNTS(value) if abs(value) >= 10_000 else f"{value:g}"


@dataclass(frozen=True)
class Curve:
    """A column of metrics.csv and how it is shown."""

    column: str
    title: str
    share: bool = False  # a share of 1, shown in percent
    from_zero: bool = False


CURVES = (
    Curve("loss", "Loss"),
    Curve("logit_scale", "Logit scale"),
    Curve("learning_rate", "Learning rate", from_zero=True),
    Curve("samples_per_second", "Samples per second", from_zero=True),
    Curve("data_wait", "Time spent waiting for data", share=True, from_zero=True),
)


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:g}%"


def score_histogram(
    name: str, scores: np.ndarray, kept: np.ndarray | None, cuts: Sequence[float], note: str
) -> Plot | None:
    """Distribution of one score column over the pool, the kept part of it in front, and the cuts.

    Args:
        name: of the column.
        scores: (n,) float; what is not finite is left out.
        kept: (n,) bool, or None when nothing has been selected yet.
        cuts: scores at which a step cut.

    Returns None when no score is finite.
    """
    finite = np.isfinite(scores)
    if not finite.any():
        return None
    low, high = np.quantile(scores[finite], [0.0005, 0.9995])
    margin = max((high - low) * 0.03, abs(high) * 1e-6, 1e-12)
    edges = np.linspace(low - margin, high + margin, BINS + 1)
    pool = np.histogram(scores[finite], edges)[0] / finite.sum()

    def paint(axes: Axes) -> None:
        axes.stairs(pool, edges, fill=True, color=COLOURS["pool"], linewidth=0, label="pool")
        if kept is not None:
            part = np.histogram(scores[finite & kept], edges)[0] / finite.sum()
            axes.stairs(part, edges, fill=True, color=COLOURS["kept"], linewidth=0, label="kept")
        for cut in cuts:
            axes.axvline(cut, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 2)), label=f"cut at {cut:.3g}")
        axes.set_xlabel(shorten(name, 40))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(_percent)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(edges[0], edges[-1])
        legend_above(axes)

    return draw(f"scores_{name}", name, paint, note)


def training_curves(metrics: Mapping[str, np.ndarray], chance_loss: float | None) -> list[Plot]:
    """One plot per column of :data:`CURVES` that has numbers, over samples seen (over steps if they are not there).

    ``chance_loss``: what a model that knows nothing has: log of the global batch.
    """
    axis = "samples_seen" if np.isfinite(metrics.get("samples_seen", np.nan)).any() else "step"
    plots = []
    for curve in CURVES:
        values = metrics.get(curve.column, np.empty(0))
        good = np.isfinite(values) & np.isfinite(metrics[axis]) if len(values) else np.zeros(0, bool)
        if good.sum() < 2:
            continue
        line = None if chance_loss is None or curve.column != "loss" else chance_loss
        note = f"Dotted: chance, log of the global batch ({line:.2f})." if line else ""
        paint = _curve_painter(curve, _thin(metrics[axis][good]), _thin(values[good]), axis.replace("_", " "), line)
        plots.append(draw(f"training_{curve.column}", curve.title, paint, note))
    return plots


def _curve_painter(curve: Curve, x: np.ndarray, y: np.ndarray, label: str, line: float | None) -> Any:
    def paint(axes: Axes) -> None:
        axes.plot(x, y, color=COLOURS["kept"])
        if line is not None:
            axes.axhline(line, color=COLOURS["muted"], linewidth=1, linestyle=":")
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(_COUNTS)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(_percent if curve.share else _number)
        if curve.from_zero:
            axes.set_ylim(0, float(y.max()) * 1.08 or 1)

    return paint


def _thin(values: np.ndarray) -> np.ndarray:
    """``values`` averaged over at most :data:`CURVE_POINTS` stretches."""
    stretches = np.array_split(values, min(len(values), CURVE_POINTS))
    return np.array([stretch.mean() for stretch in stretches])


def task_bars(title: str, tasks: Sequence[Mapping[str, Any]], baseline: Mapping[str, float], other: str) -> Plot:
    """Bars of the main metric of each task (entries of summary.json), and a tick at what guessing gives.

    ``baseline``: task key -> the main metric of the run ``other``, shown as a diamond; empty for none.
    """
    names = [shorten(task["dataset"]) for task in tasks]
    values = np.array([task["main_metric"] for task in tasks], float)
    chance = np.array([np.nan if task["random"] is None else task["random"] for task in tasks], float)
    before = np.array([baseline.get(task["key"], np.nan) for task in tasks], float)
    marks = np.fmax(np.nan_to_num(chance), np.nan_to_num(before))

    def paint(axes: Axes) -> None:
        rows = np.arange(len(tasks))
        axes.barh(rows, values, height=0.62, color=COLOURS["kept"])
        axes.vlines(chance, rows - 0.42, rows + 0.42, color=COLOURS["ink"], linewidth=1.2, label="chance")
        if np.isfinite(before).any():
            label = shorten(other, 24)
            axes.plot(before, rows, "D", color=COLOURS["dropped"], markersize=3.4, linestyle="none", label=label)
        for row, value in zip(rows, np.fmax(values, marks)):
            axes.annotate(f"{values[row]:.1%}", (value, row), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(rows, names)
        horizontal_bars(axes, len(rows), max(float(np.append(values, marks).max()) * 1.22, 0.01))
        if np.isfinite([*chance, *before]).any():
            legend_above(axes)

    size = (PANEL[0], BARS_MARGIN + ROW_HEIGHT * len(tasks))
    return draw(f"tasks_{title}", title, paint, size=size)


def kind_bars(shares: Mapping[str, float], counts: Mapping[str, int], overall: float | None) -> Plot:
    """Share kept of each kind of sample, and of all."""
    limit = max(*shares.values(), overall or 0, 0.01) * 1.22

    def paint(axes: Axes) -> None:
        rows = np.arange(len(shares))
        axes.barh(rows, list(shares.values()), height=0.62, color=COLOURS["kept"])
        if overall is not None:
            label = f"all: {overall:.1%}"
            axes.axvline(overall, color=COLOURS["ink"], linewidth=1, linestyle=(0, (3, 2)), label=label)
            legend_above(axes)
        for row, value in zip(rows, shares.values()):
            under_line = overall is not None and value <= overall < value + 0.16 * limit  # the text would be crossed
            at = overall if under_line and overall is not None else value
            axes.annotate(f"{value:.1%}", (at, row), (4, 0), textcoords="offset points", va="center")
        axes.set_yticks(rows, [f"{shorten(kind, 20)} ({counts[kind]:,})" for kind in shares])
        horizontal_bars(axes, len(rows), limit)

    return draw("kinds", "Share kept of each kind", paint, size=(PANEL[0], BARS_MARGIN + ROW_HEIGHT * len(shares)))


def horizontal_bars(axes: Axes, num_rows: int, limit: float) -> None:
    """Axes for rows from the top down and shares from 0 to ``limit``."""
    axes.set_ylim(num_rows - 0.4, -0.6)
    axes.set_xlim(0, limit)
    axes.xaxis.set_major_formatter(_percent)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", length=0, labelcolor=COLOURS["ink"])
    axes.grid(False)


def legend_above(axes: Axes, columns: int = 4) -> None:
    """A legend over the axes, where no data can be under it."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert figure is not None, "the axes were made by a figure"
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, borderpad=0, handlelength=1.2, columnspacing=1.2
    )
