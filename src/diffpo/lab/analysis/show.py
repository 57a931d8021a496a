"""Sections as tables for the terminal and as pictures, drawn without knowing what they are about."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from diffpo.lab.analysis.sections import Section, Series
from diffpo.view.drawing import Picture, Style, keep_within, legend_above, new_figure, style_axes, styles

MAX_COLUMNS = 8


def section_table(section: Section) -> Group:
    """A row a series over at most MAX_COLUMNS of its places, evenly chosen; the figures below.

    Places with names are the rows, all of them, and series the columns: names of surrogates are long.
    """
    places = list(dict.fromkeys(x for series in section.series for x in series.x))
    named = any(isinstance(place, str) for place in places)
    places = places if named else _thin(places)
    known = [dict(zip(series.x, series.y, strict=True)) for series in section.series]
    rows = [[_short(values.get(place)) for place in places] for values in known]
    heads, labels = [_short(place) for place in places], [series.label for series in section.series]
    if named:
        heads, labels, rows = labels, heads, [list(row) for row in zip(*rows, strict=True)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(Text(section.x))
    for head in heads:
        table.add_column(Text(head), justify="right", no_wrap=not named)
    for label, row in zip(labels, rows, strict=True):
        table.add_row(Text(label), *row)
    title = Text(section.title, "bold").append(f"   {section.y}", "not bold dim")
    figures = [f"{name} {_short(value)}" for name, value in section.figures.items()]
    return Group(title, table, *([Text("; ".join(figures) + "\n", "dim")] if figures else []))


def _thin(places: list[float | str]) -> list[float | str]:
    if all(isinstance(place, float | int) for place in places):
        places = sorted(places, key=float)
    if len(places) <= MAX_COLUMNS:
        return places
    return [places[round(i * (len(places) - 1) / (MAX_COLUMNS - 1))] for i in range(MAX_COLUMNS)]


def _short(value: float | str | None) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"


def section_figure(section: Section) -> Picture:
    """Lines with their intervals over numbers, dots with bars over categories.

    Intervals end where the quantity must.
    """
    figure = new_figure((7.2, 4.4))
    axes = figure.add_subplot()
    style_axes(axes, title=section.title, x=section.x, y=section.y, size=11)
    looks = styles(len(section.series))
    draw = _draw_categories if any(isinstance(x, str) for s in section.series for x in s.x) else _draw_lines
    draw(axes, section, looks)
    keep_within(axes, *section.bounds)
    if len(section.series) > 1:
        handles = [look.handle(series.label) for look, series in zip(looks, section.series, strict=True)]
        legend_above(figure, handles, "outside lower left")
    return figure


def _draw_lines(axes: Axes, section: Section, looks: Sequence[Style]) -> None:
    for look, series in zip(looks, section.series, strict=True):
        x, y, width = (np.array([math.nan if v is None else v for v in values]) for values in _columns(series))
        axes.plot(x, y, linewidth=2, markersize=4.5, **look.line)
        low, high = (np.clip(end, *section.bounds) for end in (y - width, y + width))
        axes.fill_between(x, low, high, color=look.colour, alpha=0.12, linewidth=0)


def _draw_categories(axes: Axes, section: Section, looks: Sequence[Style]) -> None:
    names = list(dict.fromkeys(x for series in section.series for x in series.x))
    lowest, highest = section.bounds
    for index, (look, series) in enumerate(zip(looks, section.series, strict=True)):
        shift = 0.16 * (index - (len(looks) - 1) / 2)
        for x, y, width in zip(*_columns(series), strict=True):
            if y is None or not math.isfinite(y):
                continue
            ends = [[y - max(lowest, y - (width or 0.0))], [min(highest, y + (width or 0.0)) - y]]
            style = {"fmt": look.marker, "color": look.colour, "markersize": 7, "linewidth": 1.6, "capsize": 3}
            axes.errorbar([names.index(x) + shift], [y], ends, **style)  # type: ignore[arg-type]
    axes.set_xticks(range(len(names)), [str(name) for name in names])


def _columns(series: Series) -> tuple[Sequence, Sequence, Sequence]:
    return series.x, series.y, [0.0] * len(series.x) if series.half_width is None else series.half_width
