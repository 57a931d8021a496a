"""A small subject for the tests of the sections."""

from __future__ import annotations

from helpers import FirstDigitTask, tiny_policy

from diffpo.config import ObjectiveConfig, RolloutConfig, TrainConfig
from diffpo.lab.analysis.settings import AnalysisConfig
from diffpo.lab.analysis.subject import Subject, look_at

SETTINGS = AnalysisConfig(
    num_prompts=6, num_generations=4, gammas=(0.1, 4.0), clamps=(0.0, 2.0), gradient_batches=3, weight_draws=2
)


def some_subject(learned: bool = False, compared: bool = False, **objective) -> Subject:
    """Rollouts of a tiny policy with fresh weights."""
    policy = tiny_policy(learned=learned)
    config = TrainConfig(
        train="model",
        rollout=RolloutConfig(sampler="learned" if learned else "entropy_bound:0.7"),
        objective=ObjectiveConfig(**objective),
    )
    before = {"before": tiny_policy(seed=1)} if compared else {}
    return look_at(before | {"after": policy}, FirstDigitTask(), config, SETTINGS)
