"""SmolLM2-135M on two CPU cores: what fine-tuning and reinforcement learning did; commands in docs/first_model.md.

    python benchmarks/laptop.py --sft RUN --rl RUN --add parent EVALUATION... --add tuned EVALUATION... [--add ...]
    python benchmarks/laptop.py

The first line puts figures of runs and of evaluations of a model, one of NAMES, into a file, where they take the place
of what it had; both print it as tables and draw docs/images/laptop.svg and laptop_runs.svg.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console
from rich.table import Table

from diffpo.evaluation.paired import Difference
from diffpo.training.metrics import read_metrics

FOUND = Path("benchmarks/results/smollm2_laptop.json")
WINDOW = 5
"""Steps of reinforcement learning that a point of the picture is the mean of."""
NAMES = {
    "parent": ("the parent, left to right", ""),
    "before": ("blocks of 4 at once, masks by chance", ""),
    "longer": ("blocks of 4 at once, 200 steps", "before"),
    "after": ("41 steps of reinforcement", "before"),
    "later": ("62 steps", "before"),
    "grown": ("the parent first, then blocks of 4", "longer"),
    "tuned": ("the same with masks counted", "grown"),
    "learned": ("40 steps of reinforcement", "tuned"),
    "further": ("80 steps of reinforcement", "tuned"),
    "tuned, more problems": ("the same with masks counted", ""),
    "learned, more problems": ("40 steps of reinforcement", "tuned, more problems"),
    "further, more problems": ("80 steps of reinforcement", "tuned, more problems"),
    "another seed": ("80 steps of another seed", "tuned"),
    "another seed, more problems": ("80 steps of another seed", "tuned, more problems"),
    "tuned, most problems": ("the same with masks counted", ""),
    "further, most problems": ("80 steps of reinforcement", "tuned, most problems"),
    "parent, GSM8K": ("the parent, left to right", ""),
    "tuned, GSM8K": ("the same with masks counted", "parent, GSM8K"),
    "further, GSM8K": ("80 steps of reinforcement", "tuned, GSM8K"),
    "another seed, GSM8K": ("80 steps of another seed", "tuned, GSM8K"),
}
"""Models (docs/first_model.md) and what each is compared with."""
DRAWN = ("parent", "longer", "grown", "tuned", "further")
ENDS = ("low", "high")


def steps_of(run: str, *names: str) -> dict[str, Any]:
    rows = read_metrics(Path(run, "metrics.jsonl"))
    return {
        "steps": len(rows),
        "median step, s": round(median(row["time/step_seconds"] for row in rows), 1),
        **{name: [round(row[name], 4) for row in rows] for name in names},
    }


def answers_of(folders: list[str]) -> dict[str, dict[str, Any]]:
    """Of each sampler and temperature the accuracy with its interval, the calls, and which prompts were right."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        evaluation, settings = (json.loads(Path(folder, f"{it}.json").read_text()) for it in ("evaluation", "settings"))
        lines = [json.loads(line) for line in Path(folder, "completions.jsonl").read_text().splitlines()]
        for point in (*evaluation["points"], *evaluation["frontier"]):
            right = {line["id"]: line["correct"] for line in lines if line["sampler"] == point["sampler"]}
            found[f"{point['sampler']}, temperature {settings['temperature']:g}"] = {
                **{name: round(point[name], 4) for name in ("accuracy", "low", "high", "nfe")},
                "right": "".join(str(int(right[name])) for name in sorted(right)),
            }
    return found


def draw_frontier(axis: Any, points: dict[str, dict[str, Any]], label: str) -> None:
    """Greedy answers' accuracy against their calls, of fixed rules."""
    greedy = {name: point for name, point in points.items() if name.endswith("temperature 0")}
    fixed = sorted((point["nfe"], point) for name, point in greedy.items() if not name.startswith("learned"))
    middles = [100 * point["accuracy"] for _, point in fixed]
    errors = [
        [abs(100 * point[end] - middle) for (_, point), middle in zip(fixed, middles, strict=True)] for end in ENDS
    ]
    axis.errorbar([nfe for nfe, _ in fixed], middles, errors, marker="o", capsize=3, label=label)


def show(found: dict[str, Any]) -> None:
    table = Table(
        "sampler", "model", "accuracy %", "calls", "gained, points", title="SmolLM2-135M, six kinds of problems"
    )
    models = [model for model in NAMES if model in found]
    for sampler in dict.fromkeys(sampler for model in models for sampler in found[model]):
        for model in models:
            if point := found[model].get(sampler):
                interval = f"{100 * point['accuracy']:.1f} [{100 * point['low']:.1f}, {100 * point['high']:.1f}]"
                gained = ""
                if was := found.get(NAMES[model][1], {}).get(sampler):
                    pairs = zip(was["right"], point["right"], strict=True)
                    change = Difference(tuple(float(its) - float(old) for old, its in pairs))
                    gained = f"{change.points:+.1f} [{change.interval[0]:.1f}, {change.interval[1]:.1f}]"
                table.add_row(sampler, model, interval, f"{point['nfe']:.1f}", gained)
    Console(width=120).print(table)
    for stage in ("sft", "rl"):
        print(stage, {name: value for name, value in found[stage].items() if not isinstance(value, list)})


def draw(found: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    figure, frontier = plt.subplots(figsize=(6.5, 3.8))
    for model in DRAWN:
        draw_frontier(frontier, found[model], NAMES[model][0])
    frontier.set(xlabel="denoiser calls an answer", ylabel="answers right, %", xlim=0, ylim=(0, 90))
    frontier.legend(loc="upper left", fontsize="small")
    figure.savefig("docs/images/laptop.svg", bbox_inches="tight")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    left.plot(range(1, found["sft"]["steps"] + 1), found["sft"]["loss"])
    left.set(xlabel="steps of fine-tuning in blocks of 4", ylabel="-log p of a masked token, nats", yscale="log")
    for name, axis in (("accuracy", right), ("nfe", right.twinx())):
        values, colour = found["rl"][name], "C0" if name == "accuracy" else "C1"
        windows = [fmean(values[at : at + WINDOW]) for at in range(0, len(values) - WINDOW + 1, WINDOW)]
        axis.plot([WINDOW * (at + 0.5) for at in range(len(windows))], windows, colour)
        axis.set_ylabel({"accuracy": "sampled answers right", "nfe": "calls"}[name], color=colour)
        axis.set_ylim(0)
    right.set(xlabel=f"steps of reinforcement learning, means of {WINDOW}")
    figure.tight_layout()
    figure.savefig("docs/images/laptop_runs.svg", bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sft")
    parser.add_argument("--rl")
    parser.add_argument("--add", nargs="+", action="append", default=[])
    arguments = parser.parse_args()
    for model, *_ in arguments.add:
        if model not in NAMES:
            parser.error(f"no model {model!r}: {', '.join(NAMES)}")
    found = json.loads(FOUND.read_text())
    for run, names in (("sft", ["loss"]), ("rl", ["accuracy", "nfe", "entropy"])):
        if folder := getattr(arguments, run):
            found[run] = steps_of(folder, *names)
    found |= {model: answers_of(folders) for model, *folders in arguments.add}
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    show(found)
    draw(found)


if __name__ == "__main__":
    main()
