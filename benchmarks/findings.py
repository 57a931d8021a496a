"""What the studies found, in one picture: `python benchmarks/draw_docs.py` draws it from studies/results.

Each line is a difference of accuracies, paired by seed: ticks are seeds, the disc their mean, the bar Student's 95 %
interval; green where that leaves 0 out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from diffpo.lab.study.statistics import Statistic, statistic
from diffpo.view.drawing import BETTER, FAINT, INK, WORSE, Picture, new_figure, style_axes

RESULTS = Path(__file__).parents[1] / "studies" / "results"


class Finding(NamedTuple):
    """A question and where its answer stands."""

    asked: str
    arm: str
    metric: str
    studies: tuple[str, ...]
    """Of seeds that differ: all of them together."""
    over: bool = True
    """Whether the metric is to be compared with the baseline's, or is a gain over it itself."""


TWO, ONE = "accuracy/top_k:2", "accuracy/top_k:1"
LONG = "equal_forwards/accuracy/entropy_bound:0.001"
FINDINGS = {
    "the sampler": (
        Finding("joint training, over the best fixed threshold", "joint", "gain_over_baseline", ("joint",), False),
        Finding("the same where both learn gently", "joint_gentle_1e-4", "gain_over_baseline", ("joint_rates",), False),
        Finding("a threshold a prompt, over its own fixed ones", "joint", "gain_over_fixed", ("joint",), False),
        Finding("the sampler alone, over fixed thresholds", "sampler", "gain_over_fixed", ("joint",), False),
    ),
    "the likelihood": (
        Finding("2-MF with weights over d1, at equal rows", "diffpo", f"equal_forwards/{TWO}", ("baselines",)),
        Finding("weights clamped at 1 over none", "c1", TWO, ("clamp",)),
        Finding("cuts by surprisal over uniform ones, Sudoku, 16 calls", "mf2_surprisal", ONE, ("surprisal_sudoku",)),
        Finding("the same beside a sampler that learns, 3 calls", "surprisal", "accuracy/own", ("joint_cuts",)),
        Finding(
            "the same on a short chain of thought, 32 calls", "mf2_surprisal", ONE, ("entropy_chain", "surprisal_chain")
        ),
        Finding("four so cut over two uniform, longer chain", "mf4_surprisal", LONG, ("long_chain",)),
        Finding("the same from another start", "mf4_surprisal", LONG, ("long_chain_cuts",)),
    ),
    "how it is trained": (
        Finding("a tighter clip, 0.1 over 0.2", "epsilon_0.1", TWO, ("sensitivity",)),
        Finding("twice the rate", "lr_3e-4", TWO, ("sensitivity",)),
        Finding("groups of 16 over 8, as many completions", "group_16", TWO, ("sensitivity",)),
        Finding("rollouts four steps old, with weights", "lag4_c2", TWO, ("staleness",)),
        Finding("the same without weights", "lag4_off", TWO, ("staleness",)),
        Finding("hints where nothing is right", "hints", ONE, ("hints_chain",)),
    ),
}


def found(finding: Finding) -> Statistic:
    """The difference in points over the seeds of its studies."""
    seeds: list[float] = []
    for name in finding.studies:
        arm = json.loads((RESULTS / f"{name}.json").read_text())["arms"][finding.arm]
        seeds += [100 * seed for seed in arm["versus" if finding.over else "metrics"][finding.metric]["by_seed"]]
    over_seeds = statistic(seeds)
    assert over_seeds
    return over_seeds


def findings_figure(findings: dict[str, Sequence[Finding]] = FINDINGS) -> Picture:
    """A line a finding, under the heads of what they are about."""
    lines = [line for head, group in findings.items() for line in (head, *group)]
    figure = new_figure((8.4, 0.3 * len(lines) + 0.8))
    axes = figure.add_subplot()
    style_axes(axes, grid="x", x="points of accuracy, better →", size=10)
    axes.axvline(0, color=FAINT, linewidth=1.2)
    labels = []
    for row, line in enumerate(lines):
        if isinstance(line, str):
            labels.append(line)
            continue
        value = found(line)
        clear = abs(value.mean) > value.half_width
        colour = BETTER if clear and value.mean > 0 else WORSE if clear else INK
        ends = [value.mean - value.half_width, value.mean + value.half_width]
        axes.plot(ends, [row, row], color=colour, linewidth=1.6)
        axes.plot(value.by_seed, [row] * len(value.by_seed), "|", color=colour, markersize=8, alpha=0.5)
        axes.plot([value.mean], [row], "o", color=colour, markersize=6, markeredgecolor="white")
        labels.append(f"{line.asked}   {value.mean:+.1f} ± {value.half_width:.1f}")
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), labels)
    axes.tick_params(axis="y", length=0, labelsize=9.5)
    for line, label in zip(lines, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if isinstance(line, str) else "normal")
    return figure
