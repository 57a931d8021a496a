"""Kill workers with SIGKILL at random moments of runs on Ray, and compare their weights with those of one process.

    python benchmarks/ray_kills.py --kills 20

One line a run: lag, workers, kills, sha256 of the weights. There must be one sha256 for each lag.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from diffpo.config import ModelConfig, ObjectiveConfig, OptimConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.training.collect import InProcess
from diffpo.training.loop import train
from diffpo.training.ray_workers import RayCollector
from diffpo.training.sft import fine_tune

TASK = TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2))
SHAPE = ModelConfig(hidden_size=48, num_layers=1, num_heads=2, mlp_size=64)
RUNS = [(lag, workers) for lag in (0, 2) for workers in (0, 1, 2, 3)]


class Hunted(RayCollector):
    """A collector that now and then, as it listens, loses one of its workers, until `left` is 0."""

    left = 0
    killed: ClassVar[list[int]] = []
    draw = random.Random(0)

    def _listen(self, seconds: float = 1.0) -> bool:
        alive = [seat.pid for seat in self.seats if seat.pid and seat.pid not in Hunted.killed]
        if alive and Hunted.left and Hunted.draw.random() < 0.5:
            Hunted.left -= 1
            Hunted.killed.append(Hunted.draw.choice(alive))
            os.kill(Hunted.killed[-1], signal.SIGKILL)
        return super()._listen(seconds)


def digest(folder: str) -> str:
    """sha256 of a run's weights."""
    files = sorted(Path(folder, "policy").glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="over all runs on workers")
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()
    hunted = [run for run in RUNS if run[1]]
    kills = {run: len(range(index, options.kills, len(hunted))) for index, run in enumerate(hunted)}
    with tempfile.TemporaryDirectory() as folder:
        optim = OptimConfig(6e-3, warmup_steps=5, lr_schedule="cosine", weight_decay=0.01)
        start = SftConfig(output=f"{folder}/start", steps=120, schedule_steps=300, batch_size=64, num_examples=2000)
        fine_tune(replace(start, optim=optim, label_noise=0.2, shape=SHAPE, task=TASK), quiet=True)
        base = TrainConfig(model=f"{folder}/start", task=TASK, steps=options.steps, num_threads=1)
        base = replace(base, prompts_per_step=6, num_generations=4, objective=ObjectiveConfig(num_iterations=2))
        for lag, workers in RUNS:
            config = replace(base, output=f"{folder}/{lag}_{workers}")
            config = replace(config, rollout=replace(config.rollout, lag=lag, workers=workers))
            Hunted.left = asked = kills.get((lag, workers), 0)
            train(config, quiet=True, collect=Hunted if workers else InProcess)
            print(f"lag {lag}  workers {workers}  kills {asked - Hunted.left}  {digest(config.output)}", flush=True)


if __name__ == "__main__":
    main()
