"""The simulation of `diffpo plan --rollout.workers` against real runs: one worker beside one trainer, lag 0 and lag 1.

    python benchmarks/simulation.py         # a table, in about four minutes on a machine with two idle cores

What it is fed with is measured apart, in this process alone: seconds of a denoiser call by its rows, seconds of a
step's updates, and the calls that completions take. What it says is set beside the seconds a step of runs on Ray.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import median

import torch
from overlap import WARM, configured, run

from diffpo.config import SftConfig, TrainConfig
from diffpo.files.recipe import find_recipe, load_config
from diffpo.models.policy import Policy, load_policy
from diffpo.planning.cluster import decode_seconds, simulate
from diffpo.rollout.engine import generate
from diffpo.rollout.local import make_request
from diffpo.rollout.log import read_rollouts
from diffpo.tasks import load_task
from diffpo.training.collect import InProcess
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune
from diffpo.types import Prompt

ROWS = (1, 4, 12, 24, 48, 96)
"""At which a call is timed; between them its seconds are taken to lie on lines."""
NUM_STEPS = 200
"""Steps that are simulated."""


class Timed(InProcess):
    """Knows how long the rollouts of each step took."""

    seconds: list[float]

    def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
        started = time.perf_counter()
        super().begin(step, prompts, policy)
        Timed.seconds.append(time.perf_counter() - started)


def call_seconds(config: TrainConfig) -> Callable[[int], float]:
    """Seconds of a denoiser call of so many rows: canvases that are filled token by token, each to its end."""
    policy, task = load_policy(config.model), load_task(config.task)
    prompts, one_by_one = task.prompts("train", max(ROWS)), replace(config.rollout, sampler="top_k:1")
    asked = [
        make_request(policy, prompt, one_by_one, task.gen_length, key, early_exit=False)
        for key, prompt in enumerate(prompts)
    ]
    known = []
    for rows in ROWS:
        taken = []
        for _ in range(4):  # the first one warms up
            started = time.perf_counter()
            calls = max(completion.nfe for completion in generate(policy, asked[:rows]))
            taken.append((time.perf_counter() - started) / calls)
        known.append(min(taken))

    def seconds(rows: int) -> float:
        right = min(max(1, bisect_left(ROWS, rows)), len(ROWS) - 1)
        (low, high), (before, behind) = ROWS[right - 1 : right + 1], known[right - 1 : right + 1]
        return before + (behind - before) * (rows - low) / (high - low)

    print("ms a call by rows:", ", ".join(f"{rows}: {1000 * one:.1f}" for rows, one in zip(ROWS, known, strict=True)))
    return seconds


def update_seconds(config: TrainConfig) -> float:
    """Seconds of a step but for its rollouts, of a run in this process."""
    Timed.seconds = []
    train(config, quiet=True, collect=Timed)
    steps = [metrics["time/step_seconds"] for metrics in read_metrics(Path(config.output, "metrics.jsonl"))]
    rest = [step - rollouts for step, rollouts in zip(steps, Timed.seconds, strict=True)]
    print(f"alone: {median(Timed.seconds[WARM:]):.2f} s of rollouts, {median(rest[WARM:]):.2f} s of updates a step")
    return median(rest[WARM:])


def simulated(config: TrainConfig, run: str, call: Callable[[int], float], update: float, lag: int) -> float:
    """Seconds a step with one worker, whose completions take calls as those of `run` did."""
    calls, random = [row["nfe"] for row in read_rollouts(Path(run, "rollouts.jsonl.gz"))], Random(0)
    rows = config.prompts_per_step * config.num_generations
    shares = [[decode_seconds(random.choices(calls, k=rows), config.rollout.num_slots, call)] for _ in range(NUM_STEPS)]
    return simulate(shares, 1, update, lag, WARM)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help=f"steps of each run; the first {WARM} are not counted")
    parser.add_argument("--updates", type=int, default=3, help="updates a step: more of them take longer than rollouts")
    parser.add_argument(
        "--start", default="", help="a policy of sudoku_tiny_pretrain; trained first where none is given"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    if os.getloadavg()[0] > 0.5:
        print(f"other processes are running (load {os.getloadavg()[0]:.1f}): what follows says little")
    with tempfile.TemporaryDirectory() as folder:
        start = options.start or f"{folder}/start"
        if not options.start:
            recipe = load_config(SftConfig, find_recipe("sudoku_tiny_pretrain"))
            fine_tune(replace(recipe, output=start, num_threads=1), quiet=True)
        alone = configured(start, f"{folder}/alone", options.steps, options.updates)
        call, update = call_seconds(alone), update_seconds(alone)
        print("\n| setting | simulated s a step | measured | error |\n| --- | --- | --- | --- |")
        for lag in (0, 1):
            said = simulated(alone, alone.output, call, update, lag)
            found, _ = run(start, f"{folder}/{lag}", lag, options.steps, options.updates)
            print(f"| one worker, lag {lag} | {said:.2f} | {found:.2f} | {said / found - 1:+.0%} |", flush=True)


if __name__ == "__main__":
    main()
