"""The look of page and plots, and plots that are drawn once and shown twice: as SVG in the page, and as PNG.

The SVG's colours are the page's CSS variables, so a plot follows the reader's light or dark mode.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clipsift_common.files import atomic_path

# CSS variable -> (light, dark). The light ones draw the PNG and are told apart in the SVG, so no two may be equal.
THEME = {
    "paper": ("#fcfbf9", "#16181b"),
    "card": ("#f4f2ed", "#1e2125"),
    "rule": ("#dfdbd3", "#33373d"),
    "muted": ("#68707a", "#9aa1ab"),
    "ink": ("#22272e", "#e8e6e1"),
    "kept": ("#11756c", "#4dbdae"),
    "dropped": ("#b4541a", "#e59a63"),
    "pool": ("#c3beb4", "#545a63"),
}
# Recipes side by side; the first is the baseline's quiet grey.
SERIES = {
    "series-0": ("#7d828a", "#8b929c"),
    "series-1": ("#2f6db0", "#74aee8"),
    "series-2": ("#10776d", "#4cbcad"),
    "series-3": ("#b5551b", "#e49962"),
    "series-4": ("#7a4fa3", "#b993e0"),
    "series-5": ("#a63a5b", "#e38ba6"),
}
COLOURS = {name: light for name, (light, _) in (THEME | SERIES).items()}
MARKERS = "oDs^vP"

PANEL = (3.6, 2.1)  # inches: at the width of a phone its small letters keep their size

_STYLE: Any = {
    "axes.edgecolor": COLOURS["rule"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.labelcolor": COLOURS["muted"],
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["ink"],
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "svg.hashsalt": "clipsift",  # the same data gives the same bytes
    "text.color": COLOURS["ink"],
    "text.parse_math": False,  # names come from configurations; a $ in one is a dollar
    "xtick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.color": COLOURS["rule"],
    "ytick.labelcolor": COLOURS["muted"],
}


@dataclass(frozen=True)
class Plot:
    """A finished plot: ``svg`` for the page, ``png`` for a file called ``name``.png."""

    name: str
    title: str
    note: str
    svg: Markup
    png: bytes

    def save(self, folder: Path) -> None:
        """Write the PNG, atomically."""
        with atomic_path(folder / f"{self.name}.png") as temporary:
            temporary.write_bytes(self.png)


def draw(
    name: str, title: str, paint: Callable[[Axes], None], note: str = "", size: tuple[float, float] = PANEL
) -> Plot:
    """Make a plot: ``paint`` draws it on the axes it is given, in :data:`COLOURS` only (black would stay black).

    Args:
        name: file name without suffix.
        title: what is shown; a heading in the page, part of the picture in the PNG.
        note: one sentence under the title.
        size: inches. Keep the width near :data:`PANEL`'s, so that it can be read on a phone.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size)
        paint(figure.add_subplot())
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.suptitle(title, fontsize=9)
        figure.savefig(png, format="png", dpi=200, facecolor=COLOURS["paper"])
    return Plot(file_name(name), title, note, _themed(svg.getvalue(), title), png.getvalue())


def file_name(text: str) -> str:
    """``text`` with everything but letters, digits, ``-`` and ``_`` replaced, for a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text)


def shorten(text: str, length: int = 26) -> str:
    """``text`` cut to ``length`` characters, with an ellipsis where it was cut."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _themed(svg: str, title: str) -> Markup:
    """Matplotlib's SVG file as an element of the page: scalable, in the page's font and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # a style in it would be the whole page's
    svg = re.sub(r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib|legend|\w+Collection)[._]\w*"', "", svg)
    svg = re.sub(r"font: ([^;]*?)(\d+(?:\.\d+)?px) [^;\"]*", r"font-size: \2", svg)
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None, "matplotlib always writes a viewBox"
    head = f'<svg class="plot" role="img" aria-label="{escape(title)}" viewBox="{box.group(1)}">'
    svg = head + svg[svg.index(">") + 1 :]
    for name, light in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return Markup(svg)


def theme_css(dark: bool) -> Markup:
    """The CSS variables of one mode, as declarations."""
    return Markup(" ".join(f"--{name}: {colours[dark]};" for name, colours in (THEME | SERIES).items()))
