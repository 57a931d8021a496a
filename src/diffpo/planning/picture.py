"""A picture of a sweep over GPUs: how long a step takes and what bounds it, and what the GPUs do in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from diffpo.planning.cluster import Split
from diffpo.view.drawing import COLOURS, FAINT, INK, Picture, Style, legend_above, new_figure, style_axes
from diffpo.view.progress import short

BOUNDS = {
    "updates": Style(COLOURS[2], "s", "-"),
    "rollouts": Style(COLOURS[1], "o", "-"),
    "slowest answers": Style(COLOURS[3], "^", "-"),
}
"""How a step is marked by what bounds it."""
WORK = {"make rollouts": COLOURS[1], "train": COLOURS[2]}
IDLE = 0.28
"""Opacity of GPUs that wait."""


def sweep_figure(splits: Sequence[Split]) -> Picture:
    """Seconds a step against GPUs for the best split of each count, both in powers of two, over shares of the GPUs.

    Bars are as high as the share of the GPUs that each part has; the pale part of each waits.
    """
    figure = new_figure((max(6.4, 0.8 * len(splits) + 1.6), 6.4))
    grid = figure.add_gridspec(2, 1, height_ratios=[1.45, 1])
    steps = figure.add_subplot(grid[0])
    shares = figure.add_subplot(grid[1], sharex=steps)
    _draw_steps(steps, splits)
    _draw_shares(shares, splits)
    steps.tick_params(labelbottom=False)
    shares.set_xticks(range(len(splits)), [f"{split.total:,}" for split in splits])
    shares.set_xlim(-0.6, len(splits) - 0.4)
    shares.set_xlabel("GPUs", fontsize=12, color=INK)
    used = [bound for bound in BOUNDS if any(split.bound == bound for split in splits)]
    handles = [BOUNDS[bound].handle(f"bound by {bound}", linestyle="none", markersize=8) for bound in used]
    beside = Style(COLOURS[0], "", (0, (5, 2))).handle("all roll out, then train")
    legend_above(figure, [*handles, beside])
    return figure


def _draw_steps(axes: Axes, splits: Sequence[Split]) -> None:
    style_axes(axes)
    places, seconds = range(len(splits)), [split.seconds for split in splits]
    axes.plot(places, [split.together for split in splits], color=COLOURS[0], linestyle=(0, (5, 2)), linewidth=1.8)
    axes.plot(places, seconds, color=INK, linewidth=1.4, zorder=3)
    for place, split in enumerate(splits):
        style = BOUNDS[split.bound]
        face = style.colour if split.fits else "white"
        look = {"color": style.colour, "markerfacecolor": face, "markersize": 9, "zorder": 4}
        axes.plot([place], [split.seconds], style.marker, **look)  # type: ignore[arg-type]
        at = (place, split.seconds)
        axes.annotate(short(split.seconds, 2), at, (7, 5), textcoords="offset points", fontsize=10, color=INK, zorder=5)
    axes.set_yscale("log")
    axes.set_ylim(min(seconds) / 1.5, 1.6 * max(max(seconds), *(split.together for split in splits)))
    axes.yaxis.set_major_locator(LogLocator(base=10))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
    axes.set_ylabel("seconds a step", fontsize=12, color=INK)
    axes.set_title(f"rollout.lag = {splits[0].lag}, simulated", fontsize=11, color=FAINT, loc="right")


def _draw_shares(axes: Axes, splits: Sequence[Split]) -> None:
    style_axes(axes)
    for place, split in enumerate(splits):
        bottom = 0.0
        counts = (split.workers, split.trainers)
        for colour, count, idle in zip(WORK.values(), counts, (split.idle_workers, split.idle_trainers), strict=True):
            height = 100 * count / split.total
            busy = height * (1 - idle)
            axes.bar(place, busy, 0.76, bottom, color=colour)
            axes.bar(place, height - busy, 0.76, bottom + busy, color=colour, alpha=IDLE, linewidth=0)
            high = busy > 12  # enough for a number
            at, ink = bottom + (busy if high else height) / 2, "white" if high else INK
            axes.text(place, at, f"{count:,}", ha="center", va="center", fontsize=9.5, color=ink)
            bottom += height
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("% of the GPUs", fontsize=12, color=INK)
    parts = [Patch(color=colour, label=name) for name, colour in WORK.items()]
    parts.append(Patch(color=INK, alpha=IDLE, linewidth=0, label="pale: wait"))
    above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axes.legend(handles=parts, ncols=3, frameon=False, fontsize=10, labelcolor=INK, **above)
