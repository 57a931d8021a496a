"""How long a study will take, before it runs."""

from __future__ import annotations

import pytest

from diffpo.config import ObjectiveConfig, RolloutConfig, TrainConfig
from diffpo.lab.study.estimate import BACKWARD, LIVE, rows_of
from diffpo.lab.study.plan import Cell


@pytest.mark.parametrize(
    ("objective", "live", "scorings", "latents"),
    [
        (ObjectiveConfig(), LIVE, 1 + BACKWARD, 1 + 1 / 8),
        (ObjectiveConfig(beta=0.1), 1, 2 + BACKWARD, 1 + 1 / 8),
        (ObjectiveConfig(surrogate="coupled", importance_clamp=0), LIVE, 1 + BACKWARD, 2 + 1 / 8),
        (ObjectiveConfig(surrogate="elbo:2", importance_clamp=0), LIVE, 1 + BACKWARD, 4),
        (ObjectiveConfig(surrogate="mean_field:1", loss="wd1", importance_clamp=0), LIVE, BACKWARD, 1 / 8),
        (ObjectiveConfig(surrogate="gdsd", loss="gdsd", importance_clamp=0), 1, 1 + BACKWARD, 2),
    ],
    ids=["2-MF", "KL", "coupled", "espo", "wd1", "gdsd"],
)
def test_an_arm_costs_what_its_objective_scores(
    objective: ObjectiveConfig, live: float, scorings: float, latents: float
) -> None:
    train = TrainConfig(train="model", steps=3, rollout=RolloutConfig(sampler="top_k:2"), objective=objective)
    cell = Cell("arm/0", "base/0", None, train, train.task, {}, (), (), (), num_points=1, num_prompts=0, skip_prompts=0)
    rows = 3 * 48 * 8 * (8 + live * 4 * scorings * latents)
    assert rows_of(cell, gen_length=16) == pytest.approx(rows)


def test_rollouts_in_blocks_take_the_calls_of_their_blocks() -> None:
    def rows(block_length: int | None, measured: dict) -> float:
        rollout = RolloutConfig(sampler="top_k:8", block_length=block_length)
        train = TrainConfig(train="model", steps=3, rollout=rollout)
        cell = Cell("a/0", "base/0", None, train, train.task, measured, ("top_k:2",), (), (), 1, 10, skip_prompts=0)
        return rows_of(cell, gen_length=16)

    assert rows(1, {}) - rows(None, {}) == pytest.approx(3 * 48 * 8 * (16 - 2))
    assert rows(1, {}) - rows(1, {"block_length": 4, "gen_length": 8}) == pytest.approx(10 * (8 - (2 + 2)))
