"""How rollouts grow with batch, canvas, vocabulary and denoiser calls, beside what the count of operations says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from diffpo.lab.bench.measure import Heard, Tally, in_turn
from diffpo.lab.bench.workloads import SMALL, random_policy, random_requests
from diffpo.models.transformer import TransformerConfig
from diffpo.rollout.engine import generate
from diffpo.view.drawing import COLOURS, FAINT, Picture, legend_above, new_figure, style_axes
from diffpo.view.progress import short

AXES = {"canvas": (64, 128, 256), "vocabulary": (4096, 8192, 16384), "batch": (8, 16, 32), "NFE": (8, 16, 32)}
"""Sizes along each axis; all else stays: 8 rows, a canvas of 64 behind 64 tokens, blocks of 32, 8 calls a block."""
TITLES = {"canvas": "tokens of the canvas", "vocabulary": "vocabulary", "batch": "rows", "NFE": "denoiser calls a row"}


@dataclass(frozen=True)
class GrowthPoint:
    """One size on an axis of growth."""

    size: int
    seconds: float
    """A denoiser call of all rows; of the axis NFE, all calls."""
    flops: float
    """Of the same."""


def growth_points(
    repeats: int, shape: TransformerConfig = SMALL, heard: Heard = lambda name, spent: None
) -> dict[str, list[GrowthPoint]]:
    """Median seconds of rollouts along each axis, sizes in turn."""
    start = {"canvas": 64, "vocabulary": shape.vocab_size // 4, "batch": 8, "NFE": 16}
    measured: dict[str, list[GrowthPoint]] = {}
    for axis, sizes in AXES.items():
        works, flops, calls = {}, {}, {}
        for size in sizes:
            at = start | {axis: size}
            policy = random_policy(replace(shape, vocab_size=at["vocabulary"]))
            blocks = at["canvas"] // 32
            nfe = at["NFE"] if axis == "NFE" else 8 * blocks
            requests = random_requests(policy, [64] * at["batch"], f"steps:{nfe}", at["canvas"])
            with Tally(policy) as tally:
                generate(policy, requests)
            works[f"{axis} {size}"] = lambda policy=policy, requests=requests: generate(policy, requests)
            flops[size], calls[size] = tally.flops, 1 if axis == "NFE" else nfe
        taken = in_turn(works, repeats, torch.device("cpu"), heard)
        measured[axis] = [
            GrowthPoint(size, taken[f"{axis} {size}"] / calls[size], flops[size] / calls[size]) for size in sizes
        ]
    return measured


def growth_figure(measured: Mapping[str, Sequence[GrowthPoint]]) -> Picture:
    """A panel an axis, both scales logarithmic: seconds measured, and the smallest size's times the operations."""
    figure = new_figure((2.9 * len(measured), 3.1))
    for index, (axis, points) in enumerate(measured.items()):
        axes = figure.add_subplot(1, len(measured), index + 1)
        style_axes(axes, title="ms a rollout" if axis == "NFE" else "ms a call", x=TITLES[axis])
        sizes, first = [point.size for point in points], points[0]
        times = [1000 * point.seconds for point in points]
        counted = [1000 * first.seconds * point.flops / first.flops for point in points]
        axes.plot(sizes, counted, linestyle=(0, (4, 3)), color=FAINT, linewidth=1.6, label="as operations are counted")
        axes.plot(sizes, times, "-o", color=COLOURS[1], linewidth=2.2, label="measured")
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_yticks(times, list(map(short, times)))
        axes.minorticks_off()
        axes.tick_params(labelsize=9)
    legend_above(figure, figure.axes[0].get_lines(), "outside upper right")
    return figure
