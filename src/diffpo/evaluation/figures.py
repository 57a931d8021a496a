"""Pictures of evaluations and training runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation
from diffpo.view.drawing import (
    DASHES,
    FAINT,
    INK,
    Picture,
    Style,
    keep_within,
    legend_above,
    new_figure,
    scale_calls,
    style_axes,
    styles,
)

Metrics = Mapping[str, float | None]
"""A line of a run's metrics.jsonl; None stands for what was not finite."""
MAX_BANDS = 3
"""Policies whose intervals are drawn as bands; those of more would merge into one."""
PANELS = {
    "reward": "reward",
    "accuracy": "accuracy (%)",
    "nfe": "denoiser calls (NFE)",
    "gamma": "threshold gamma (nats)",
    "entropy": "entropy (nats)",
    "surrogate_kl": "surrogate KL",
    "clip_ratio": "clipped tokens (%)",
    "importance/ess": "effective sample size (%)",
}
"""Metrics of training that are drawn over its steps, and the titles of their panels."""
LEVEL_COLOURS = ("#0ca678", "#d9480f", "#5f3dc4", "#c2255c")


# --- accuracy against NFE ----------------------------------------------------------------------------------------


def frontier_figure(evaluations: Mapping[str, Evaluation]) -> Picture:
    """Accuracy against NFE of each named policy: all prompts large, each level in a small panel beside it.

    Fixed thresholds are a line, the learned sampler a star, both with 95 % intervals; others are rings.
    """
    points = [point for e in evaluations.values() for point in e.measured]
    levels = sorted({point.level for point in points} - {""})
    figure = new_figure((9.6, 4.8) if levels else (6.8, 4.8))
    grid = figure.add_gridspec(max(1, len(levels)), 2 if levels else 1, width_ratios=[2.1, 1] if levels else [1])
    main = figure.add_subplot(grid[:, 0])
    _draw_policies(main, evaluations, "", size=1.0)
    _label_samplers(main, evaluations)
    main.set_ylabel("accuracy (%)", fontsize=12, color=INK)
    main.set_xlabel("denoiser calls per answer (NFE)", fontsize=12, color=INK)
    main.text(0.015, 0.98, "↖ better", transform=main.transAxes, va="top", fontsize=11, color=FAINT, style="italic")
    main.set_title("all prompts" if levels else "", fontsize=12, color=INK, loc="left")
    legend_above(figure, _frontier_legend(evaluations))  # inside, it would sooner or later hide a point
    for row, level in enumerate(levels):
        axes = figure.add_subplot(grid[row, 1], sharex=main)
        _draw_policies(axes, evaluations, level, size=0.62)
        axes.set_title(level, fontsize=12, color=INK, loc="left")
        axes.tick_params(labelsize=10, labelbottom=row == len(levels) - 1)
    return figure


def _styles(evaluations: Mapping[str, Evaluation]) -> dict[str, Style]:
    return dict(zip(evaluations, styles(len(evaluations)), strict=True))


def _draw_policies(axes: Axes, evaluations: Mapping[str, Evaluation], level: str, size: float) -> None:
    """One panel of `frontier_figure`; `size` scales lines and marks."""
    style_axes(axes)
    scale_calls(axes)
    looks = _styles(evaluations)
    for name, evaluation in evaluations.items():
        colour = looks[name].colour
        frontier = sorted((p for p in evaluation.frontier if p.level == level), key=lambda p: (p.nfe, p.accuracy))
        calls = [point.nfe for point in frontier]
        low, middle, high = ([100 * getattr(p, key) for p in frontier] for key in ("low", "accuracy", "high"))
        if len(evaluations) <= MAX_BANDS:
            axes.fill_between(calls, low, high, color=colour, alpha=0.13, linewidth=0)
        if len(frontier) == 1:
            axes.vlines(calls, low, high, color=colour, alpha=0.4, linewidth=1.6 * size)
        axes.plot(calls, middle, linewidth=2.4 * size, markersize=4 * size, **looks[name].line)
    for learned in (False, True):  # stars on top
        for name, evaluation in evaluations.items():
            colour = looks[name].colour
            chosen = [p for p in evaluation.points if p.level == level and (p.sampler == "learned") == learned]
            for p in chosen if learned else ():
                axes.vlines(p.nfe, 100 * p.low, 100 * p.high, color=colour, alpha=0.4, linewidth=1.6 * size)
            axes.add_line(_mark([p.nfe for p in chosen], [100 * p.accuracy for p in chosen], learned, colour, size))
    axes.autoscale_view()
    keep_within(axes, 0, 100)


def _mark(x: Sequence[float], y: Sequence[float], learned: bool, colour: str, size: float, label: str = "") -> Line2D:
    """Stars for the learned sampler, rings for the others."""
    return Line2D(
        x,
        y,
        linestyle="",
        marker="*" if learned else "o",
        markersize=(22 if learned else 9) * size,
        markerfacecolor=colour if learned else "white",
        markeredgecolor="white" if learned else colour,
        markeredgewidth=(1.2 if learned else 2) * size,
        zorder=5 if learned else 4,
        label=label,
    )


def _label_samplers(axes: Axes, evaluations: Mapping[str, Evaluation]) -> None:
    """Name each fixed rule once, below its least accurate dot, and each policy's learned sampler in its own colour."""
    lowest: dict[str, Point] = {}
    for name, evaluation in evaluations.items():
        for point in evaluation.points:
            if point.level:
                continue
            place = (point.nfe, 100 * point.accuracy)
            if point.sampler == "learned":
                text = f"learned\n{place[1]:.1f} % in {point.nfe:.1f} calls"
                look: dict[str, Any] = {"xytext": (-6, 12), "ha": "right", "va": "bottom", "fontsize": 11}
                colour = _styles(evaluations)[name].colour
                axes.annotate(text, place, textcoords="offset points", color=colour, linespacing=1.15, zorder=6, **look)
            elif point.sampler not in lowest or point.accuracy < lowest[point.sampler].accuracy:
                lowest[point.sampler] = point
    for sampler, point in lowest.items():
        look = {"xytext": (0, -9), "ha": "center", "va": "top", "fontsize": 10}
        place = (point.nfe, 100 * point.accuracy)
        axes.annotate(sampler, place, textcoords="offset points", color=INK, zorder=6, **look)


def _frontier_legend(evaluations: Mapping[str, Evaluation]) -> list[Line2D]:
    """Policies by style, then the marks that occur."""
    samplers = {point.sampler for evaluation in evaluations.values() for point in evaluation.points}
    handles = [style.handle(name) for name, style in _styles(evaluations).items()]
    if any(evaluation.frontier for evaluation in evaluations.values()):
        handles.append(Line2D([], [], color=INK, marker="o", markersize=4, linewidth=1.5, label="fixed thresholds"))
    if samplers - {"learned"}:
        handles.append(_mark([], [], False, INK, 0.9, "fixed rule"))
    if "learned" in samplers:
        handles.append(_mark([], [], True, INK, 0.7, "learned sampler"))
    return handles


# --- training ----------------------------------------------------------------------------------------------------


def training_figure(metrics: Sequence[Metrics]) -> Picture:
    """Small multiples of a run's metrics over its steps; a panel whose metrics are missing is left out."""
    names = {name for step in metrics for name, value in step.items() if value is not None}
    levels = sorted(name.removeprefix("accuracy/") for name in names if name.startswith("accuracy/"))
    panels = PANELS if "reward" in names else PANELS | {"loss": "loss"}  # that of reinforcement learning says little
    series = {
        title: [name for name in (metric, *(f"{metric}/{level}" for level in levels)) if name in names]
        for metric, title in panels.items()
    }
    shown = {title: found for title, found in series.items() if found}
    if not shown:
        raise ValueError("training_figure: none of these metrics is known; pass the lines of a run's metrics.jsonl")
    figure, axes_of = step_panels(list(shown), headroom=0.3)
    for title, axes in axes_of.items():
        _draw_series(axes, metrics, shown[title], levels, scale=100 if title.endswith("(%)") else 1)
    if levels:
        handles = [style.handle(level or "all prompts") for level, style in _level_styles(levels).items()]
        legend_above(figure, handles)
    return figure


def step_panels(titles: Sequence[str], headroom: float) -> tuple[Picture, dict[str, Axes]]:
    """Small panels over the steps of training, at most four in a row, with `headroom` inches for a legend."""
    columns = min(4, len(titles))
    rows = math.ceil(len(titles) / columns)
    figure = new_figure((3.1 * columns, 2.4 * rows + headroom))
    panels: dict[str, Axes] = {}
    for index, title in enumerate(titles):
        panels[title] = axes = figure.add_subplot(rows, columns, index + 1)
        style_axes(axes)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        axes.tick_params(labelsize=10)
        if index + columns >= len(titles):
            axes.set_xlabel("step", fontsize=10, color=INK)
    return figure, panels


def _draw_series(
    axes: Axes, metrics: Sequence[Metrics], series: Sequence[str], levels: Sequence[str], scale: float
) -> None:
    """One panel of `training_figure`: a line a metric over the steps; what was not finite is a gap."""
    steps = [step.get("step") or index for index, step in enumerate(metrics)]
    looks = _level_styles(levels)
    drawn: list[float] = []
    for name in series:
        level = name.partition("/")[2] if name.partition("/")[2] in levels else ""
        heights = [math.nan if (value := step.get(name)) is None else scale * value for step in metrics]
        drawn += heights
        line: dict[str, Any] = looks[level].line | {"marker": "o" if len(heights) < 3 else ""}
        axes.plot(steps, heights, linewidth=1.5 if level else 2.0, markersize=5, **line)
    if np.nanmin([0.0, *drawn]) >= 0:  # a constant 0 would be drawn in the middle of an axis that has no business below
        keep_within(axes, 0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if len(steps) == 1:
        axes.set_xticks(steps)


def _level_styles(levels: Sequence[str]) -> dict[str, Style]:
    """All prompts in ink, each level in a colour and a dash of its own."""
    looks = zip(levels, cycle(LEVEL_COLOURS), cycle((*DASHES[1:], DASHES[0])), strict=False)
    return {"": Style(INK, "", DASHES[0])} | {level: Style(colour, "", dash) for level, colour, dash in looks}
