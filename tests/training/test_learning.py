"""The real command on a toy task: reward and accuracy rise by more than their noise."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

from diffpo.cli import main
from diffpo.training.metrics import read_metrics


def test_joint_training_answers_better(start: str, tmp_path: Path) -> None:
    flags = "--task.name tiny_sudoku "
    flags += "--task.easy 1 1 --task.hard 2 2 --steps 24 --prompts-per-step 16 --num-threads 2 --seed 1"
    flags += " --optim.learning-rate 1e-3 --threshold.learning-rate 0.02 --objective.num-iterations 2"
    main(["train", "--model", start, "--output", str(tmp_path / "run"), *flags.split()])
    steps = read_metrics(tmp_path / "run/metrics.jsonl")
    first, last = steps[:6], steps[-6:]

    def change(name: str) -> tuple[float, float]:
        """Rise of the mean over six steps, and its standard error."""
        old, new = [step[name] for step in first], [step[name] for step in last]
        return fmean(new) - fmean(old), ((stdev(old) ** 2 + stdev(new) ** 2) / 6) ** 0.5

    for name in ("reward", "accuracy"):
        rise, error = change(name)
        assert rise > 3 * error, f"{name} rose by {rise:.3f}, with a standard error of {error:.3f}"
