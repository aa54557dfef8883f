"""The plots of a comparison: recipes told apart by colour, the baseline in grey."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from clipsift_app.report.figures import COLOURS, MARKERS, PANEL, SERIES, Plot, draw, shorten
from clipsift_app.report.plots import BARS_MARGIN, horizontal_bars, legend_above
from clipsift_app.report.rows import Row, Stat

_BAR_HEIGHT = 0.26  # inches per recipe
_DOT_HEIGHT = 0.09  # inches per recipe within a row of dots
_LEGEND_ROW = 0.19


def colour(place: int) -> str:
    """The colour of the recipe in this row; after the last it starts again behind the baseline's grey."""
    series = list(SERIES)
    return COLOURS[series[place] if place < len(series) else series[1 + (place - 1) % (len(series) - 1)]]


def recipe_bars(name: str, title: str, rows: Sequence[Row], value: Callable[[Row], Stat | None]) -> Plot | None:
    """A bar per recipe with its spread over seeds; None when no recipe has the number."""
    found = [(place, row, stat) for place, row in enumerate(rows) if (stat := value(row)) is not None]
    if not found:
        return None
    several = any(stat.spread is not None for _, _, stat in found)

    def paint(axes: Axes) -> None:
        for at, (place, _, stat) in enumerate(found):
            axes.barh(at, stat.mean, height=0.6, color=colour(place))
            spread = stat.spread or 0
            if spread:
                axes.errorbar(stat.mean, at, xerr=spread, color=COLOURS["ink"], linewidth=1, capsize=2.5, capthick=1)
            text = f"{stat.mean:.1%}"
            axes.annotate(text, (stat.mean + spread, at), (5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(found)), [shorten(row.recipe, 24) for _, row, _ in found])
        horizontal_bars(axes, len(found), max(max(stat.mean + (stat.spread or 0) for _, _, stat in found) * 1.22, 0.01))

    note = "Whiskers: standard deviation over seeds." if several else ""
    return draw(name, title, paint, note, size=(PANEL[0], BARS_MARGIN - 0.2 + _BAR_HEIGHT * len(found)))


def dots(
    name: str,
    title: str,
    labels: Mapping[str, str],
    series: Mapping[str, Mapping[str, Stat]],
    ticks: Mapping[str, float | None],
) -> Plot:
    """A row per entry of ``labels`` (key -> name), in it a dot with whiskers per recipe.

    Args:
        name: file name.
        title: heading.
        labels: the rows, from the top.
        series: recipe -> key -> number in [0, 1]; in the table's order, which gives the colours.
        ticks: key -> where a grey mark goes (chance), if anywhere.
    """
    keys = list(labels)

    def paint(axes: Axes) -> None:
        marks = [(row, tick) for row, key in enumerate(keys) if (tick := ticks.get(key)) is not None]
        if marks:
            at, values = np.array(marks, float).T
            axes.vlines(values, at - 0.42, at + 0.42, color=COLOURS["muted"], linewidth=1, label="chance")
        for place, (recipe, stats) in enumerate(series.items()):
            offset = (place - (len(series) - 1) / 2) * 0.62 / len(series)
            shown = [(row + offset, stats[key]) for row, key in enumerate(keys) if key in stats]
            _whiskers(axes, place, recipe, shown)
        axes.hlines(
            np.arange(1, len(keys)) - 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=COLOURS["rule"], lw=0.5
        )
        axes.set_yticks(range(len(keys)), [shorten(text) for text in labels.values()])
        horizontal_bars(axes, len(keys), min(max(_highest(series, ticks) * 1.08, 0.01), 1.04))
        legend_above(axes, columns=2)

    num_entries = len(series) + any(tick is not None for tick in ticks.values())
    height = 0.4 + _LEGEND_ROW * -(-num_entries // 2) + len(keys) * (_DOT_HEIGHT * len(series) + 0.09)
    return draw(name, title, paint, size=(PANEL[0], height))


def _whiskers(axes: Axes, place: int, recipe: str, shown: Sequence[tuple[float, Stat]]) -> None:
    axes.errorbar(
        [stat.mean for _, stat in shown],
        [row for row, _ in shown],
        xerr=[stat.spread or 0 for _, stat in shown],
        fmt=MARKERS[place % len(MARKERS)],
        markersize=3.6,
        linewidth=1,
        color=colour(place),
        clip_on=False,
        label=shorten(recipe, 24),
    )


def _highest(series: Mapping[str, Mapping[str, Stat]], ticks: Mapping[str, float | None]) -> float:
    ends = [stat.mean + (stat.spread or 0) for stats in series.values() for stat in stats.values()]
    return max([*ends, *(tick for tick in ticks.values() if tick is not None), 0.0])
