"""Pictures for the page: evaluations, training runs, unmaskings. Each is a PNG or an SVG, as its path ends."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation
from diffpo.types import Completion

DPI = 150
INK, FAINT = "#24292f", "#8b949e"
COLOURS = ("#8b949e", "#0b7285", "#d9480f", "#5f3dc4", "#2b8a3e", "#c2255c", "#e8a200", "#1971c2")
"""Of policies in the order given; a policy alone takes the second."""
Metrics = Mapping[str, float | None]
"""A line of a run's metrics.jsonl; None stands for what was not finite."""
LEVEL_COLOURS = ("#0ca678", "#d9480f", "#5f3dc4", "#c2255c")


# --- accuracy against NFE ----------------------------------------------------------------------------------------


def frontier_figure(evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Accuracy against NFE of each named policy: all prompts large, each level in a small panel beside it.

    Fixed thresholds are a line, the learned sampler a star, both with 95 % intervals; others are rings.
    """
    points = [point for e in evaluations.values() for point in (*e.points, *e.frontier)]
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
    handles = _frontier_legend(evaluations)
    # above the panels: inside, it would sooner or later hide a point
    figure.legend(handles=handles, loc="outside upper right", ncols=min(5, len(handles)), frameon=False, labelcolor=INK)
    for row, level in enumerate(levels):
        axes = figure.add_subplot(grid[row, 1], sharex=main)
        _draw_policies(axes, evaluations, level, size=0.62)
        axes.set_title(level, fontsize=12, color=INK, loc="left")
        axes.tick_params(labelsize=10, labelbottom=row == len(levels) - 1)
    save_figure(figure, path)


def _draw_policies(axes: Axes, evaluations: Mapping[str, Evaluation], level: str, size: float) -> None:
    """One panel of `frontier_figure`; `size` scales lines and marks."""
    style_axes(axes)
    scale_calls(axes)
    for colour, evaluation in zip(_colours(evaluations), evaluations.values(), strict=True):
        frontier = sorted((p for p in evaluation.frontier if p.level == level), key=lambda p: (p.nfe, p.accuracy))
        calls = [point.nfe for point in frontier]
        low, middle, high = ([100 * getattr(p, name) for p in frontier] for name in ("low", "accuracy", "high"))
        axes.fill_between(calls, low, high, color=colour, alpha=0.13, linewidth=0)
        if len(frontier) == 1:
            axes.vlines(calls, low, high, color=colour, alpha=0.4, linewidth=1.6 * size)
        axes.plot(calls, middle, "-o", color=colour, linewidth=2.4 * size, markersize=4 * size)
    for learned in (False, True):  # stars on top
        for colour, evaluation in zip(_colours(evaluations), evaluations.values(), strict=True):
            chosen = [p for p in evaluation.points if p.level == level and (p.sampler == "learned") == learned]
            for p in chosen if learned else ():
                axes.vlines(p.nfe, 100 * p.low, 100 * p.high, color=colour, alpha=0.4, linewidth=1.6 * size)
            axes.add_line(_mark([p.nfe for p in chosen], [100 * p.accuracy for p in chosen], learned, colour, size))
    axes.autoscale_view()


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
    """Name each sampler once, below its least accurate dot; the last policy's learned sampler gets its figures."""
    lowest: dict[str, Point] = {}
    for evaluation in evaluations.values():
        for point in evaluation.points:
            known = lowest.get(point.sampler)
            if not point.level and (not known or point.sampler == "learned" or point.accuracy < known.accuracy):
                lowest[point.sampler] = point
    for sampler, point in lowest.items():
        learned = sampler == "learned"
        axes.annotate(
            f"learned\n{100 * point.accuracy:.1f} % in {point.nfe:.1f} calls" if learned else sampler,
            (point.nfe, 100 * point.accuracy),
            xytext=(-6, 12) if learned else (0, -9),
            textcoords="offset points",
            ha="right" if learned else "center",
            va="bottom" if learned else "top",
            fontsize=12 if learned else 10,
            color=_colours(evaluations)[-1] if learned else INK,
            linespacing=1.15,
            zorder=6,
        )


def _frontier_legend(evaluations: Mapping[str, Evaluation]) -> list[Line2D]:
    """Policies by colour, then the marks that occur."""
    samplers = {point.sampler for evaluation in evaluations.values() for point in evaluation.points}
    colours = _colours(evaluations)
    handles = [Line2D([], [], color=c, linewidth=3, label=name) for c, name in zip(colours, evaluations, strict=True)]
    if any(evaluation.frontier for evaluation in evaluations.values()):
        handles.append(Line2D([], [], color=INK, marker="o", markersize=4, linewidth=1.5, label="fixed thresholds"))
    if samplers - {"learned"}:
        handles.append(_mark([], [], False, INK, 0.9, "fixed rule"))
    if "learned" in samplers:
        handles.append(_mark([], [], True, INK, 0.7, "learned thresholds"))
    return handles


def _colours(evaluations: Mapping[str, Evaluation]) -> list[str]:
    start = 1 if len(evaluations) == 1 else 0
    return [COLOURS[(start + index) % len(COLOURS)] for index in range(len(evaluations))]


def scale_calls(axes: Axes) -> None:
    """Calls in powers of two: half the calls is the same distance everywhere."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda calls, _: f"{calls:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.06, y=0.12)


# --- training ----------------------------------------------------------------------------------------------------


def training_figure(metrics: Sequence[Metrics], path: str | Path) -> None:
    """Small multiples of a run's metrics over its steps; a panel whose metrics are missing is left out."""
    names = {name for step in metrics for name, value in step.items() if value is not None}
    levels = sorted(name.removeprefix("accuracy/") for name in names if name.startswith("accuracy/"))
    panels: dict[str, list[str]] = {
        "reward": ["reward"],
        "accuracy (%)": ["accuracy", *(f"accuracy/{level}" for level in levels)],
        "denoiser calls (NFE)": ["nfe", *(f"nfe/{level}" for level in levels)],
        "threshold gamma (nats)": ["gamma", *(f"gamma/{level}" for level in levels)],
        "entropy (nats)": ["entropy"],
        "surrogate KL": ["surrogate_kl"],
        "clipped tokens (%)": ["clip_ratio"],
        "effective sample size (%)": ["importance/ess"],
    }
    shown = {title: [n for n in series if n in names] for title, series in panels.items() if names & set(series)}
    if not shown:
        raise ValueError("training_figure: none of these metrics is known; pass the lines of a run's metrics.jsonl")
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure((3.1 * columns, 2.4 * rows + 0.3))
    for index, (title, series) in enumerate(shown.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw_series(axes, metrics, series, levels, scale=100 if title.endswith("(%)") else 1)
        axes.set_title(title, fontsize=11, color=INK, loc="left")
        if index + columns >= len(shown):
            axes.set_xlabel("step", fontsize=10, color=INK)
    if levels:
        lines = [Line2D([], [], color=_level_colour(name, levels), linewidth=2.5) for name in ["", *levels]]
        names = ["all prompts", *levels]
        figure.legend(lines, names, loc="outside upper right", ncols=len(lines), frameon=False, fontsize=11)
    save_figure(figure, path)


def _draw_series(
    axes: Axes, metrics: Sequence[Metrics], series: Sequence[str], levels: Sequence[str], scale: float
) -> None:
    """One panel of `training_figure`: a line a metric over the steps; what was not finite is a gap."""
    style_axes(axes)
    steps = [step.get("step") or index for index, step in enumerate(metrics)]
    for name in series:
        level = name.partition("/")[2] if name.partition("/")[2] in levels else ""
        heights = [math.nan if (value := step.get(name)) is None else scale * value for step in metrics]
        marker = "o" if len(heights) < 3 else ""
        width = 1.5 if level else 2.0
        axes.plot(steps, heights, color=_level_colour(level, levels), linewidth=width, marker=marker, markersize=5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if len(steps) == 1:
        axes.set_xticks(steps)
    axes.tick_params(labelsize=10)


def _level_colour(level: str, levels: Sequence[str]) -> str:
    return LEVEL_COLOURS[levels.index(level) % len(LEVEL_COLOURS)] if level else INK


# --- one unmasking -----------------------------------------------------------------------------------------------


def unmasking_figure(
    text_prompt: str, tokens: Sequence[str], completion: Completion, path: str | Path, columns: int | None = None
) -> None:
    """One completion's canvas, coloured by the call that committed each position, and the order beside it.

    `tokens` has the text of each canvas position, length L; `columns` cells make a row. The more certain the model was
    when it committed a token, the larger the token.
    """
    texts = [token.replace("\n", "↵").strip(" ")[:12] or "·" for token in tokens]
    stretch = min(3.0, max(1.0, 0.35 * max(map(len, texts))))  # cells are this many times wider than high
    columns = columns or math.ceil(math.sqrt(2 * len(tokens) / stretch))
    rows, nfe = math.ceil(len(tokens) / columns), completion.nfe
    palette = ListedColormap([colormaps["viridis"](0.2 + 0.75 * call / max(1, nfe - 1)) for call in range(nfe)])
    calls = [int(call) for call in completion.committed_at.tolist()]
    cell = min(0.9, 4.5 / rows, 8.0 / (columns * stretch))  # inches
    wide, width = cell * columns * stretch, max(2.4, min(4.5, 0.22 * len(tokens)))
    figure = new_figure((wide + width + 1.4, max(2.6, cell * rows + 0.9)))
    grid = figure.add_gridspec(1, 2, width_ratios=[wide, width])
    canvas = figure.add_subplot(grid[0], anchor="N")
    canvas.set(xlim=(0, columns * stretch), ylim=(rows, 0), aspect="equal")
    canvas.axis("off")
    title = textwrap.shorten(text_prompt, max(12, int(9 * wide)), placeholder="...")
    canvas.set_title(title, fontsize=12, color=INK, loc="left", family="monospace", parse_math=False)
    for index, (text, entropy) in enumerate(zip(texts, completion.entropies.tolist(), strict=True)):
        certainty = math.exp(-max(0.0, entropy))
        size = 72 * cell * min(0.25 + 0.3 * certainty, 1.4 * stretch * (0.4 + 0.6 * certainty) / len(text))  # points
        corner = (index % columns * stretch, index // columns)
        _draw_cell(canvas, corner, stretch, text, palette(calls[index] - 1), size)
    canvas.text(0, -0.01, "larger: more certain", transform=canvas.transAxes, va="top", fontsize=10, color=FAINT)
    order = figure.add_subplot(grid[1])
    _draw_order(order, calls, palette, size=min(11.0, 56 * width / len(tokens), 180 * cell * rows / nfe))
    save_figure(figure, path)


def _draw_order(axes: Axes, calls: Sequence[int], palette: ListedColormap, size: float) -> None:
    """The call that committed each position, first call on top; marks are `size` points wide."""
    style_axes(axes)
    axes.scatter(range(1, len(calls) + 1), calls, c=[palette(call - 1) for call in calls], marker="s", s=size**2)
    axes.set(xlim=(0.3, len(calls) + 0.7), ylim=(palette.N + 0.5, 0.5))
    axes.set_xlabel("position", fontsize=11, color=INK)
    axes.set_title("order", fontsize=12, color=INK, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10], min_n_ticks=1))
    axes.tick_params(axis="y", length=0, labelleft=False)
    scale = ScalarMappable(BoundaryNorm([call + 0.5 for call in range(palette.N + 1)], palette.N), palette)
    step = math.ceil(palette.N / 8)
    bar = axes.figure.colorbar(scale, ax=axes, pad=0.03, fraction=0.07, ticks=range(1, palette.N + 1, step))
    bar.set_label("denoiser call", fontsize=11, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=11, labelcolor=INK)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(min(8, palette.N), integer=True, min_n_ticks=1))


def _draw_cell(
    axes: Axes, corner: tuple[float, float], width: float, text: str, colour: tuple[float, ...], size: float
) -> None:
    """One canvas position, `width` wide and 1 high, with its text `size` points large."""
    (x, y), shape = corner, "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x + 0.04, y + 0.04), width - 0.08, 0.92, boxstyle=shape, facecolor=colour, lw=0))
    red, green, blue = colour[:3]
    ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
    axes.text(x + width / 2, y + 0.52, text, ha="center", va="center", color=ink, fontsize=size, parse_math=False)


# --- every figure ------------------------------------------------------------------------------------------------


def new_figure(size: tuple[float, float]) -> Figure:
    """A figure of its own, in inches: pyplot and its global state stay out of it."""
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def style_axes(axes: Axes) -> None:
    """No box, a faint horizontal grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.grid(axis="y", color="#eaeef2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, labelsize=11, length=3, color=FAINT)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG or an SVG, as the name ends; the SVG keeps its text as text, and is the same each time."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = path.suffix.removeprefix(".") or "png"
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}):
        figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else None)
