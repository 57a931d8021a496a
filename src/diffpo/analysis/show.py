"""Sections as tables for the terminal and as pictures, drawn without knowing what they are about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from diffpo.analysis.sections import Section, Series
from diffpo.evaluation.report import COLOURS, INK, new_figure, save_figure, style_axes

MAX_COLUMNS = 8


def section_table(section: Section) -> Group:
    """A row a series over at most MAX_COLUMNS of its places, evenly chosen; the figures below."""
    places = _thin(list(dict.fromkeys(x for series in section.series for x in series.x)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(Text(section.x))
    for place in places:
        table.add_column(Text(_short(place)), justify="right", no_wrap=True)
    for series in section.series:
        known = dict(zip(series.x, series.y, strict=True))
        table.add_row(Text(series.label), *(_short(known.get(place)) for place in places))
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


def draw_section(section: Section, path: str | Path) -> None:
    """Lines with their intervals over numbers, dots with bars over categories; PNG or SVG, as the path ends."""
    figure = new_figure((7.2, 4.4))
    axes = figure.add_subplot()
    style_axes(axes)
    draw = _draw_categories if any(isinstance(x, str) for s in section.series for x in s.x) else _draw_lines
    draw(axes, section.series)
    axes.set_xlabel(section.x, fontsize=11, color=INK)
    axes.set_ylabel(section.y, fontsize=11, color=INK)
    axes.set_title(section.title, fontsize=12, color=INK, loc="left", parse_math=False)
    if len(section.series) > 1:
        longest = max(len(series.label) for series in section.series)
        columns = max(1, min(len(section.series), 100 // (longest + 8)))
        legend = figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
        for text in legend.get_texts():
            text.set_parse_math(False)
    save_figure(figure, path)


def _draw_lines(axes: Axes, lines: Sequence[Series]) -> None:
    for index, series in enumerate(lines):
        colour = COLOURS[(index + (len(lines) == 1)) % len(COLOURS)]
        x, y, width = (np.array([math.nan if v is None else v for v in values]) for values in _columns(series))
        axes.plot(x, y, "-o", color=colour, linewidth=2, markersize=4, label=series.label)
        axes.fill_between(x, y - width, y + width, color=colour, alpha=0.12, linewidth=0)


def _draw_categories(axes: Axes, lines: Sequence[Series]) -> None:
    names = list(dict.fromkeys(x for series in lines for x in series.x))
    for index, series in enumerate(lines):
        colour = COLOURS[(index + 1) % len(COLOURS)]
        _, y, width = (list(values) for values in _columns(series))
        known = [(names.index(x), v, w or 0.0) for x, v, w in zip(series.x, y, width, strict=True) if v is not None]
        known = [entry for entry in known if math.isfinite(entry[1])]
        shift = 0.16 * (index - (len(lines) - 1) / 2)
        at = [place + shift for place, *_ in known]
        style = {"fmt": "o", "color": colour, "markersize": 7, "linewidth": 1.6, "capsize": 3}
        axes.errorbar(at, [v for _, v, _ in known], [w for *_, w in known], label=series.label, **style)  # type: ignore[arg-type]
    axes.set_xticks(range(len(names)), [str(name) for name in names])


def _columns(series: Series) -> tuple[Sequence, Sequence, Sequence]:
    return series.x, series.y, [0.0] * len(series.x) if series.half_width is None else series.half_width
