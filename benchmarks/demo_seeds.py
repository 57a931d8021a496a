"""The demo over seeds and arms: means with 95 % intervals over seeds, never the best seed.

    python benchmarks/demo_seeds.py --seeds 0 1 2 3 4 --arms joint sampler model --output runs/seeds --jobs 2

Runs what is not there yet, `--jobs` demos of one thread each at a time, then writes
OUTPUT/results.json and prints the tables of docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffpo import Evaluation
from diffpo.lab.study.statistics import statistic

EQUAL_NFE = 3.2
"""Where the arms' trained denoisers are compared under fixed thresholds: the joint arm's mean calls."""


def over_seeds(values: list[float]) -> dict[str, Any]:
    """The values by seed, their mean, and the half-width of its 95 % interval."""
    found = statistic(values)
    if found is None:
        raise ValueError("an interval over seeds wants two of them: --seeds 0 1")
    return {"seeds": values, "mean": found.mean, "half_width": found.half_width}


def figures(summary: dict[str, Any], own: Evaluation) -> dict[str, float]:
    """What is compared of one demo, in % and calls; `own` is the evaluation of the trained policy."""
    before, after = summary["before"], summary["after"]
    own_fixed = own.frontier_accuracy(after["learned"]["nfe"])
    table = {
        "accuracy before": 100 * before["learned"]["accuracy"],
        "accuracy after": 100 * after["learned"]["accuracy"],
        "accuracy gain": 100 * (after["learned"]["accuracy"] - before["learned"]["accuracy"]),
        "NFE before": before["learned"]["nfe"],
        "NFE after": after["learned"]["nfe"],
        "NFE change %": 100 * (after["learned"]["nfe"] / before["learned"]["nfe"] - 1),
        "gain at equal NFE": 100 * summary["gain_at_equal_nfe"],
        "gain over its own fixed thresholds": 100 * (after["learned"]["accuracy"] - own_fixed),
    }
    table[f"fixed thresholds at {EQUAL_NFE} calls"] = 100 * own.frontier_accuracy(EQUAL_NFE)
    for k in ("1", "2", "4"):
        table[f"top-{k} before"] = 100 * before["top_k"][k]["accuracy"]
        table[f"top-{k} after"] = 100 * after["top_k"][k]["accuracy"]
    for level in ("easy", "hard"):
        table[f"{level} NFE after"] = after["learned"][level]["nfe"]
        table[f"{level} accuracy after"] = 100 * after["learned"][level]["accuracy"]
    return table


def demo(output: Path, arm: str, seed: int) -> dict[str, Any]:
    """The summary of one demo, run unless it is there."""
    folder = output / f"{arm}_{seed}"
    if not (folder / "summary.json").is_file():
        flags = f"--seed {seed} --train {arm} --num-threads 1 --output {folder}".split()
        with (output / f"{arm}_{seed}.log").open("w") as log:
            subprocess.run([sys.executable, "-m", "diffpo", "demo", *flags], check=True, stdout=log, stderr=log)
    return json.loads((folder / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=["joint", "sampler", "model"])
    parser.add_argument("--output", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    runs = [(arm, seed) for arm in options.arms for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        summaries = dict(zip(runs, pool.map(lambda run: demo(options.output, *run), runs), strict=True))
    results: dict[str, dict[str, Any]] = {}
    for arm in options.arms:
        rows = [
            figures(summaries[arm, seed], Evaluation.load(options.output / f"{arm}_{seed}" / "after"))
            for seed in options.seeds
        ]
        results[arm] = {name: over_seeds([row[name] for row in rows]) for name in rows[0]}
    (options.output / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print("| | " + " | ".join(options.arms) + " |\n|---|" + "---|" * len(options.arms))
    for name in results[options.arms[0]]:
        cells = [f"{results[arm][name]['mean']:.1f} ± {results[arm][name]['half_width']:.1f}" for arm in options.arms]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for arm in options.arms:
        print(f"\n{arm}, by seed: ", end="")
        for name in ("accuracy gain", "NFE change %", "gain at equal NFE"):
            print(f"{name} " + " ".join(f"{value:+.1f}" for value in results[arm][name]["seeds"]), end="; ")
    print()


if __name__ == "__main__":
    main()
