"""Made-up evaluations, for tables and pictures, and a sampler measured on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffpo.config import EvalConfig, RolloutConfig
from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation, evaluate
from diffpo.models.policy import Policy
from diffpo.tasks.base import Task


def point(sampler: str, level: str, accuracy: float, nfe: float, gamma: float | None = None, eos: float = 0) -> Point:
    return Point(
        sampler,
        level,
        200,
        accuracy,
        max(0, accuracy - 0.05),
        min(1, accuracy + 0.05),
        nfe,
        eos or nfe,
        16 / nfe,
        gamma,
    )


def evaluation(gain: float = 0.0, learned: bool = True, levels: Sequence[str] = ("easy", "hard")) -> Evaluation:
    """Top-k, a learned sampler and a frontier through (2, 0.4), (4, 0.5), (8, 0.6), all better by `gain`."""
    points, frontier = [], []
    for level in ("", *levels):
        points += [point("top_k:2", level, 0.55 + gain, 8), point("top_k:4", level, 0.45 + gain, 4)]
        points += [point("learned", level, 0.5123 + gain, 5 - 10 * gain, 0.2)] if learned else []
        fixed = ((0.1, 0.6, 8), (0.5, 0.5, 4), (2, 0.4, 2))
        frontier += [point(f"entropy_bound:{g:g}", level, accuracy + gain, nfe, g) for g, accuracy, nfe in fixed]
    return Evaluation("tiny_sudoku", tuple(points), tuple(frontier))


def measure(
    policy: Policy, task: Task, sampler: str, config: EvalConfig, rollout: RolloutConfig, seed: int = 0
) -> list[Point]:
    """The points of one sampler: of all prompts, then of each level."""
    return list(
        evaluate(policy, task, replace(config, samplers=(sampler,), gammas=()), rollout, seed, quiet=True).points
    )
