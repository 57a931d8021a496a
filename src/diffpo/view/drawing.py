"""What pictures have in common: the look, a style for each series, a legend that fits, files that come out alike."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diffpo.files.folder import drafted

DPI = 150
INK, FAINT, GRID = "#24292f", "#8b949e", "#eaeef2"
COLOURS = ("#8b949e", "#0b7285", "#d9480f", "#5f3dc4", "#2b8a3e", "#c2255c", "#e8a200", "#1971c2")
"""Of series in the order given; the first, grey, is for what others are compared with."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)))
BETTER, WORSE = "#2b8a3e", "#c92a2a"


@dataclass(frozen=True)
class Style:
    """How one series is told from the others, in colour and without it."""

    colour: str
    marker: str
    dash: Any

    @property
    def line(self) -> dict[str, Any]:
        """Keywords of a line with marks."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dash}

    def handle(self, label: str, **changes: Any) -> Line2D:
        """Its entry in a legend."""
        return Line2D([], [], label=label, **(self.line | {"linewidth": 2.2, "markersize": 5} | changes))


def styles(count: int) -> list[Style]:
    """`count` styles, no two alike; a series alone is coloured. The ninth has the first's colour, dashed."""
    if count == 1:
        return [Style(COLOURS[1], MARKERS[0], DASHES[0])]
    return [
        Style(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i in range(count)
    ]


class Picture(Figure):
    """A matplotlib figure that a notebook shows as it is, without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()


def new_figure(size: tuple[float, float]) -> Picture:
    """A figure of its own, in inches: pyplot and its global state stay out of it."""
    figure = Picture(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes, grid: str = "y", title: str = "", x: str = "", y: str = "", size: int = 10) -> None:
    """No box, a faint grid across the axis named; a title, and labels of the axes, which are `size` points large."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=11, length=3, color=FAINT)
    axes.set_title(title, fontsize=size + 1, color=INK, loc="left", parse_math=False, wrap=True)
    axes.set_xlabel(x, fontsize=size, color=INK)
    axes.set_ylabel(y, fontsize=size, color=INK)


def scale_calls(axes: Axes) -> None:
    """Calls in powers of two: half the calls is the same distance everywhere."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda calls, _: f"{calls:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06, y=0.12)


def keep_within(axes: Axes, low: float = -math.inf, high: float = math.inf) -> None:
    """Let the vertical axis end where its values must, if it would go on beyond."""
    bottom, top = axes.get_ylim()
    margin = 0.02 * (top - bottom)  # a line along the edge stays whole
    axes.set_ylim(max(bottom, low - margin), min(top, high + margin))


def legend_above(figure: Figure, handles: Sequence[Artist], place: str = "outside upper left") -> None:
    """A legend over the panels, in as many columns as the figure is wide enough for."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    look: dict[str, Any] = {"loc": place, "frameon": False, "fontsize": 10, "labelcolor": INK, "handlelength": 2.6}
    for columns in range(len(handles), 0, -1):
        legend = figure.legend(handles=handles, ncols=columns, **look)
        for text in legend.get_texts():
            text.set_parse_math(False)
        if columns == 1 or legend.get_window_extent(renderer).width <= 0.97 * figure.bbox.width:
            return
        legend.remove()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG or an SVG, as the name ends; the SVG keeps its text as text, and is the same each time."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.removeprefix(".") or "png"
    if kind not in figure.canvas.get_supported_filetypes():
        raise ValueError(f"{path}: no picture's name ends in .{kind}: take .svg or .png")
    with drafted(path) as draft, rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(draft, format=kind, metadata={"Date": None} if kind == "svg" else None)
