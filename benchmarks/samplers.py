"""Unmasking rules against each other and against learned thresholds, on prompts like those of training and on others.

    diffpo study joint
    python benchmarks/samplers.py runs/studies/joint

Measures the starts and the jointly trained policies of the study, greedily, under each rule at several settings; writes
benchmarks/results/samplers.json and docs/images/samplers.png and prints the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from diffpo import Evaluation, evaluate, load_policy, load_task
from diffpo.config import EvalConfig, RolloutConfig, TaskConfig
from diffpo.lab.study.origin import origin
from diffpo.lab.study.statistics import read_off, statistic
from diffpo.view.drawing import INK, new_figure, save_figure, scale_calls, style_axes, styles

HERE = Path(__file__).parent
RULES = {
    "entropy_bound": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
    "confidence": (0.5, 0.7, 0.85, 0.95, 0.98, 0.99, 0.995, 0.999),
    "top_k": (1, 2, 4, 8),
    "random": (2, 8),
}
TASKS = {
    "blanks as in training (2 to 5, 8 to 10)": TaskConfig("tiny_sudoku"),
    "other blanks (6 to 7, 11 to 12)": TaskConfig("tiny_sudoku", easy=(6, 7), hard=(11, 12)),
}
NUM_PROMPTS = 1024
Rules = Mapping[str, Sequence[float]]
"""Settings of each unmasking rule."""


def measure(model: Path, task: Any, rules: Rules, num_prompts: int, rollout: RolloutConfig | None = None) -> Evaluation:
    """Every rule and the learned thresholds at temperature 0."""
    specs = [f"{rule}:{value:g}" for rule, values in rules.items() for value in values]
    config = EvalConfig(samplers=(*specs, "learned"), gammas=(), num_prompts=num_prompts, temperature=0.0)
    return evaluate(load_policy(model, device="cpu"), task, config, rollout, quiet=True)


def frontier(evaluation: Evaluation, rule: str, level: str) -> list[tuple[float, float]]:
    """(NFE, accuracy) of a rule's settings."""
    found = [p for p in evaluation.points if p.sampler.startswith(f"{rule}:") and p.level == level]
    return [(point.nfe, point.accuracy) for point in found]


def gains(evaluation: Evaluation) -> dict[str, float | None]:
    """Accuracy of the learned thresholds less that of each rule at the same calls, and by level less fixed ones'."""
    levels = sorted({point.level for point in evaluation.points})
    rules = dict.fromkeys(p.sampler.partition(":")[0] for p in evaluation.points if p.sampler != "learned")
    found = {}
    for rule, level in [*((rule, "") for rule in rules), *(("entropy_bound", level) for level in levels if level)]:
        own = evaluation.point("learned", level)
        other = read_off(frontier(evaluation, rule, level), own.nfe)
        found[f"{rule}/{level}".rstrip("/")] = None if other is None else own.accuracy - other
    return found


def over_seeds(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Accuracy and calls of every sampler and level, and the learned thresholds' gains, over seeds."""
    places = [(point.sampler, point.level) for point in evaluations[0].points]
    found: dict[str, Any] = {}
    for sampler, level in places:
        points = [evaluation.point(sampler, level) for evaluation in evaluations]
        entry = {name: [getattr(point, name) for point in points] for name in ("accuracy", "nfe")}
        found[f"{sampler}/{level}".rstrip("/")] = {name: plain(values) for name, values in entry.items()}
    if any(sampler == "learned" for sampler, _ in places):
        each = [gains(evaluation) for evaluation in evaluations]
        found["gains"] = {name: plain([entry[name] for entry in each]) for name in each[0]}
    return found


def plain(values: Sequence[float | None]) -> dict[str, Any] | None:
    found = statistic(values)
    return found.plain() if found else None


def gain_row(found: Mapping[str, Any]) -> list[str]:
    """The learned thresholds' accuracy, calls, and gains in points, for a table."""
    own = found["learned"]
    cells = [spread(own["accuracy"], 100), spread(own["nfe"], 1, 2)]
    return [*cells, *(spread(value, 100, sign="+") if value else "" for value in found["gains"].values())]


def spread(value: Mapping[str, Any], scale: float, digits: int = 1, sign: str = "") -> str:
    return f"{scale * value['mean']:{sign}.{digits}f} ± {scale * value['half_width']:.{digits}f}"


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a policy and task that has learned thresholds."""
    learned = {name: found for name, found in rows.items() if "gains" in found}
    names = next(iter(learned.values()))["gains"]
    head = ["", "%", "NFE", *(f"points over {name}" for name in names)]
    lines = [head, ["---"] * len(head), *([name, *gain_row(found)] for name, found in learned.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Accuracy against calls of each rule, mean over seeds; learned thresholds are a star."""
    figure = new_figure((9.6, 4.4))
    first: Axes | None = None
    for index, (title, samplers) in enumerate(found.items()):
        axes: Axes = figure.add_subplot(1, len(found), index + 1, sharey=first)
        first = first or axes
        style_axes(axes)
        scale_calls(axes)
        for look, (rule, values) in zip(styles(len(RULES)), RULES.items(), strict=True):
            points = sorted((samplers[f"{rule}:{value:g}"] for value in values), key=lambda p: p["nfe"]["mean"])
            x, y, width = ([s * p[n][k] for p in points] for s, n, k in AXES)
            axes.errorbar(x, y, width, markersize=4, linewidth=1.8, elinewidth=0.8, label=rule, **look.line)
        if "learned" in samplers:
            own = samplers["learned"]
            star = {"color": INK, "markersize": 17, "markeredgecolor": "white", "zorder": 5}
            axes.plot(own["nfe"]["mean"], 100 * own["accuracy"]["mean"], "*", label="learned thresholds", **star)
        axes.set_title(title, fontsize=12, color=INK, loc="left")
        axes.set_xlabel("denoiser calls per answer (NFE)", fontsize=11, color=INK)
    figure.axes[0].set_ylabel("accuracy (%)", fontsize=11, color=INK)
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=10)
    save_figure(figure, path)


AXES = ((1, "nfe", "mean"), (100, "accuracy", "mean"), (100, "accuracy", "half_width"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "samplers.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "images" / "samplers.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for arm in ("base", "joint"):
        runs = sorted(options.study.glob(f"{arm}/seed_?/run"))
        for name, config in TASKS.items():
            found[f"{arm}: {name}"] = over_seeds([measure(run, load_task(config), RULES, NUM_PROMPTS) for run in runs])
            print(f"{arm}: {name}, {len(runs)} seeds", flush=True)
    record = {"num_prompts": NUM_PROMPTS, "origin": origin(), "measured": found}
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    seen = next(iter(TASKS))
    draw({"before training": found[f"base: {seen}"], "after joint training": found[f"joint: {seen}"]}, options.figure)
    print(table(found))


if __name__ == "__main__":
    main()
