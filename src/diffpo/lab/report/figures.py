"""Pictures of a study: frontiers, paired differences, accuracy against what training cost, curves of its runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from diffpo.evaluation.figures import LEVEL_COLOURS, PANELS, Metrics, step_panels
from diffpo.lab.study.plan import BASE
from diffpo.lab.study.statistics import statistic
from diffpo.lab.study.tables import columns_of, header, judged, kind_of
from diffpo.view.drawing import (
    BETTER,
    FAINT,
    INK,
    WORSE,
    Picture,
    Style,
    keep_within,
    legend_above,
    new_figure,
    scale_calls,
    style_axes,
    styles,
)

Summary = Mapping[str, Any]

MAX_PANELS, MAX_COLUMNS = 6, 3


class NothingToDraw(ValueError):
    """A picture that what was measured holds nothing for."""


def styles_of(summary: Summary) -> dict[str, Style]:
    """How each arm is drawn, in every picture of the study: the start is grey."""
    return dict(zip(summary["arms"], styles(len(summary["arms"])), strict=True))


def _legend(figure: Figure, summary: Summary, names: Sequence[str] = ()) -> None:
    looks = styles_of(summary)
    legend_above(figure, [looks[name].handle(summary["arms"][name]["label"]) for name in names or looks])


def _percent(share: Mapping[str, Any]) -> tuple[float, float]:
    """Mean and half-width in %."""
    return 100 * share["mean"], 100 * share["half_width"]


def _draw_means(axes: Axes, points: Sequence[tuple[float, float, float]], summary: Summary, arm: str) -> None:
    """A line through an arm's points (x, mean, half-width); the band of the baseline."""
    if points:
        x, middle, width = (np.array(values) for values in zip(*points, strict=True))
        style = styles_of(summary)[arm]
        if arm == summary["baseline"]:
            axes.fill_between(x, middle - width, middle + width, color=style.colour, alpha=0.13, linewidth=0)
        axes.plot(x, middle, linewidth=1.8, markersize=4.5, **style.line)


# --- accuracy against NFE ----------------------------------------------------------------------------------------


def study_frontier_figure(summary: Summary) -> Picture:
    """Mean accuracy against mean NFE over seeds: fixed thresholds as lines, learned samplers as stars.

    The band is the 95 % interval of the baseline's mean (Student's t); those of all would merge, and what can be said
    of two arms is their paired difference.
    """
    figure = new_figure((8.4, 5.4))
    axes = figure.add_subplot()
    style_axes(axes, x="denoiser calls per answer (NFE)", y="accuracy (%)", size=12)
    scale_calls(axes)
    for name, style in styles_of(summary).items():
        metrics = summary["arms"][name]["metrics"]
        _draw_means(axes, sorted(_points(metrics, "entropy_bound:")), summary, name)
        for call, accuracy, _ in _points(metrics, "learned"):
            star = {"markersize": 19, "markeredgecolor": "white", "markeredgewidth": 1}
            axes.plot([call], [accuracy], "*", color=style.colour, zorder=5, **star)  # type: ignore[arg-type]
    keep_within(axes, 0, 100)
    axes.text(0.015, 0.98, "↖ better", transform=axes.transAxes, va="top", fontsize=11, color=FAINT, style="italic")
    _legend(figure, summary)
    return figure


def _points(metrics: Mapping[str, Any], prefix: str) -> list[tuple[float, float, float]]:
    """Mean NFE, mean accuracy in %, its half-width, of the samplers whose name begins so; levels are left out."""
    names = [name.removeprefix("accuracy/") for name in metrics if name.startswith(f"accuracy/{prefix}")]
    return [
        (metrics[f"nfe/{name}"]["mean"], *_percent(metrics[f"accuracy/{name}"]))
        for name in names
        if "/" not in name and f"nfe/{name}" in metrics
    ]


# --- paired differences ------------------------------------------------------------------------------------------


def differences_figure(summary: Summary) -> Picture:
    """Each arm less the baseline, a panel a metric: every seed a tick, mean with its bootstrap (thick) and t interval.

    Green discs and red squares are differences whose t interval leaves 0 out. Panels of one unit have one scale.
    """
    arms = {name: arm for name, arm in summary["arms"].items() if arm["versus"]}
    metrics = [m for m in columns_of(summary) if any(m in arm["versus"] for arm in arms.values())][:MAX_PANELS]
    if not metrics:
        raise NothingToDraw(f"{summary['name']}: no arm differs from the baseline in what was measured")
    rows = math.ceil(len(metrics) / MAX_COLUMNS)
    columns = math.ceil(len(metrics) / rows)
    figure = new_figure((3.0 * columns + 1.9, (0.34 * len(arms) + 1.1) * rows + 0.2))
    first: dict[str, Axes] = {}
    for index, metric in enumerate(metrics):
        unit = kind_of(metric).unit or header(metric)
        words = {1: f"{unit}, better →", -1: f"← better, {unit}", 0: unit}
        axes = figure.add_subplot(rows, columns, index + 1, sharex=first.get(unit))
        first.setdefault(unit, axes)
        style_axes(axes, grid="x", title=header(metric), x=words[kind_of(metric).better], size=9)
        axes.axvline(0, color=FAINT, linewidth=1.2)
        for row, arm in enumerate(arms.values()):
            if value := arm["versus"].get(metric):
                colour = {"better": BETTER, "worse": WORSE, "": INK}[judged(metric, value)]
                scale = kind_of(metric).scale
                ends = [scale * value["low"], scale * value["high"]]
                axes.plot(ends, [row, row], color=colour, linewidth=4.5, alpha=0.35)
                _draw_seeds(axes, value, row, colour, "s" if colour == WORSE else "o", scale)
        axes.set_ylim(len(arms) - 0.4, -0.6)
        axes.set_yticks(range(len(arms)), [arm["label"] for arm in arms.values()] if index % columns == 0 else [])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.tick_params(axis="y", length=0, labelsize=10)
        axes.tick_params(axis="x", labelsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    baseline = summary["arms"][summary["baseline"]]["label"]
    figure.suptitle(f"less {baseline}", fontsize=11, color=INK, x=0.01, ha="left", parse_math=False)
    return figure


def _draw_seeds(
    axes: Axes,
    value: Mapping[str, Any],
    row: float,
    colour: str,
    marker: str,
    scale: float = 1.0,
    low: float = -math.inf,
) -> None:
    """A row of a figure over seeds: a tick each, their mean, and its t interval, which is cut off at `low`."""
    mean, half = scale * value["mean"], scale * value["half_width"]
    axes.plot([max(low, mean - half), mean + half], [row, row], color=colour, linewidth=1.2, alpha=0.7)
    seeds = [scale * seed for seed in value["by_seed"] if seed is not None]
    axes.plot(seeds, [row] * len(seeds), "|", color=colour, markersize=8, alpha=0.6)
    axes.plot([mean], [row], marker, color=colour, markersize=6, markeredgecolor="white", markeredgewidth=1)


# --- what training cost ------------------------------------------------------------------------------------------


def cost_figure(summary: Summary) -> Picture:
    """Accuracy of the tracked samplers as training goes on, at equal updates and at equal rows through the denoiser."""
    curves = {name: arm["curve"] for name, arm in summary["arms"].items() if name != BASE}
    followed = [[metric for metric in curve[0] if sum(metric in p for p in curve) > 1] for curve in curves.values()]
    arms_of = Counter(metric for metrics in followed for metric in metrics if metric.startswith("accuracy/"))
    tracked = [metric for metric, arms in arms_of.items() if arms > 1]
    if not tracked:
        raise NothingToDraw(f"{summary['name']}: no sampler was measured while training: name one in measure.track")
    axes_of = {"step": "steps of training", "forwards": "rows through the denoiser, rollouts and updates (thousands)"}
    figure = new_figure((9.6, 3.5 * len(tracked) + 0.5))
    for row, metric in enumerate(tracked):
        first = None
        for column, (key, words) in enumerate(axes_of.items()):
            axes = figure.add_subplot(len(tracked), 2, 2 * row + column + 1, sharey=first)
            first = first or axes
            style_axes(axes, title=header(metric) if not column else "", x=words)
            for name, curve in curves.items():
                from_start = [point for point in (*summary["arms"][BASE]["curve"], *curve) if metric in point]
                _draw_means(axes, [(point[key], *_percent(point[metric])) for point in from_start], summary, name)
            keep_within(axes, 0, 100)
            if key == "forwards":
                axes.axvline(summary["equal_forwards"], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda rows, _: f"{rows / 1000:g}"))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(figure, summary)
    return figure


def equal_cost_figure(summaries: Sequence[Summary]) -> Picture:
    """Points over the start against the rows that training spent, a panel a study, a line an arm.

    Bands are the 95 % intervals of the gain, paired by seed (Student's t). Studies that share arms share their styles.
    """
    labels = {name: arm["label"] for summary in summaries for name, arm in summary["arms"].items() if name != BASE}
    looks = dict(zip(labels, styles(len(labels)), strict=True))
    rows = math.ceil(len(summaries) / MAX_COLUMNS)
    columns = math.ceil(len(summaries) / rows)
    figure = new_figure((4.4 * columns + 0.4, 3.9 * rows + 0.4 + 0.2 * math.ceil(len(labels) / (2 * columns))))
    for index, summary in enumerate(summaries):
        curves = {name: arm["curve"] for name, arm in summary["arms"].items()}
        (start,) = curves.pop(BASE)
        points = [point for curve in curves.values() for point in curve]
        metric = next((m for m in columns_of(summary) if all(m in point for point in points)), None)
        if metric is None:
            raise NothingToDraw(f"{summary['name']}: no column was measured while training: name one in measure.track")
        axes = figure.add_subplot(rows, columns, index + 1)
        gained = f"points over the start, {header(metric).removesuffix(' %')}"
        style_axes(axes, title=summary["title"], x="denoiser rows, rollouts and updates (thousands)", y=gained)
        for name, curve in curves.items():
            line = [(0.0, 0.0, 0.0)]
            for point in curve:
                pairs = zip(point[metric]["by_seed"], start[metric]["by_seed"], strict=True)
                gain = statistic([100 * (own - before) for own, before in pairs])
                assert gain is not None  # every seed was measured
                line.append((point["forwards"] / 1000, gain.mean, gain.half_width))
            x, middle, width = (np.array(values) for values in zip(*line, strict=True))
            shade = 0.16 if name == summary["baseline"] else 0.05
            axes.fill_between(x, middle - width, middle + width, color=looks[name].colour, alpha=shade, linewidth=0)
            axes.plot(x, middle, linewidth=1.6, markersize=4, **looks[name].line)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend_above(figure, [looks[name].handle(label) for name, label in labels.items()])
    return figure


# --- curves of the runs ------------------------------------------------------------------------------------------


def runs_figure(summary: Summary, runs: Mapping[str, Sequence[Sequence[Metrics]]]) -> Picture:
    """Metrics of the rollouts over the steps of training: the mean over an arm's runs, and each run faintly."""
    shown = [m for m in PANELS if any(step.get(m) is not None for arm in runs.values() for run in arm for step in run)]
    if not shown:
        raise NothingToDraw(f"{summary['name']}: none of its runs has metrics to draw")
    figure, panels = step_panels([PANELS[metric] for metric in shown], headroom=0.5)
    looks = styles_of(summary)
    for metric, axes in zip(shown, panels.values(), strict=True):
        scale = 100 if PANELS[metric].endswith("(%)") else 1
        for name, arm in runs.items():
            lines = [[scale * v if (v := step.get(metric)) is not None else math.nan for step in run] for run in arm]
            length = min(map(len, lines), default=0)
            table = np.array([line[:length] for line in lines])
            if not length or np.isnan(table).all():
                continue
            for line in table:
                axes.plot(range(1, length + 1), line, color=looks[name].colour, linewidth=0.7, alpha=0.18)
            mean = np.array([np.nanmean(c) if not np.isnan(c).all() else math.nan for c in table.T])
            every = max(1, length // 6)  # marks enough to tell arms apart without their colours
            axes.plot(range(1, length + 1), mean, linewidth=1.6, markersize=4, markevery=every, **looks[name].line)
        keep_within(axes, 0, 100 if scale == 100 else math.inf)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    _legend(figure, summary, [name for name in summary["arms"] if name in runs])
    return figure


# --- thresholds --------------------------------------------------------------------------------------------------


def thresholds_figure(gammas: Mapping[str, Sequence[float]]) -> Picture:
    """Thresholds that a learned sampler chose, one histogram a level of difficulty, on one axis."""
    values = [gamma for level in gammas.values() for gamma in level]
    low, high = min(values), max(values)
    edges = np.linspace(low, high if high > low else low + 1e-3, 31)
    figure = new_figure((6.8, 0.9 + 1.1 * len(gammas)))
    first = None
    for row, (level, chosen) in enumerate(sorted(gammas.items())):
        axes = figure.add_subplot(len(gammas), 1, row + 1, sharex=first)
        first = first or axes
        mean = f", mean {fmean(chosen):.3g} nats" if len(chosen) > 1 else ""
        style_axes(axes, title=f"{level or 'all prompts'}: {len(chosen)} prompts{mean}", size=9)
        axes.hist(chosen, bins=list(edges), color=LEVEL_COLOURS[row % len(LEVEL_COLOURS)], alpha=0.85)
        axes.set_yticks([])
        axes.tick_params(labelbottom=row == len(gammas) - 1, labelsize=10)
    figure.axes[-1].set_xlabel("threshold gamma (nats)", fontsize=11, color=INK)
    return figure


def study_thresholds_figure(summary: Summary) -> Picture:
    """Mean threshold of each learned sampler by difficulty: every seed a tick, the mean over them with its interval."""
    arms = {name: arm["metrics"] for name, arm in summary["arms"].items() if "gamma/learned" in arm["metrics"]}
    names = dict.fromkeys(m for metrics in arms.values() for m in metrics if m.startswith("gamma/learned"))
    if not arms:
        raise NothingToDraw(f"{summary['name']}: none of its arms has a learned sampler")
    figure = new_figure((6.8, 0.9 + 0.45 * len(names) * max(1, len(arms) / 2)))
    axes = figure.add_subplot()
    style_axes(axes, grid="x", x="threshold gamma (nats)", size=11)
    for index, (name, metrics) in enumerate(arms.items()):
        look, shift = styles_of(summary)[name], 0.7 * ((index + 0.5) / len(arms) - 0.5)
        for row, metric in enumerate(names):
            if value := metrics.get(metric):
                _draw_seeds(axes, value, row + shift, look.colour, look.marker, low=0.0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), [name.removeprefix("gamma/learned").strip("/") or "all" for name in names])
    axes.tick_params(axis="y", length=0)
    _legend(figure, summary, list(arms))
    return figure


FIGURES: Mapping[str, Callable[[Summary], Picture]] = {
    "frontier": study_frontier_figure,
    "differences": differences_figure,
    "cost": cost_figure,
    "thresholds": study_thresholds_figure,
}
"""Pictures of a study that its summary alone is drawn from."""
