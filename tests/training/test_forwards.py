"""Denoiser rows of a run: the same sum after a resume, and what really passes through the denoiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from functional.test_latents import MASK, batch_of
from helpers import keys

from diffpo.config import ObjectiveConfig, RolloutConfig, TaskConfig, TrainConfig
from diffpo.models.policy import load_policy
from diffpo.processes.world import World
from diffpo.surrogates import load_surrogate
from diffpo.tasks import load_task
from diffpo.training.loop import gather, train
from diffpo.training.metrics import read_metrics
from diffpo.training.state import TrainState
from diffpo.training.update import update


@pytest.mark.parametrize(
    ("objective", "latents"),
    [
        (ObjectiveConfig(surrogate="mean_field:1"), 1 / 4),
        (ObjectiveConfig(surrogate="mean_field:1,prompt_mask_prob=0.15"), 1),
        (ObjectiveConfig(surrogate="mean_field:2"), 1 + 1 / 4),
        (ObjectiveConfig(surrogate="mean_field:9"), 3 + 1 / 4),
        (ObjectiveConfig(surrogate="mean_field:0"), 3 + 1 / 4),
        (ObjectiveConfig(surrogate="coupled:2", importance_clamp=0), 4 + 1 / 4),
        (ObjectiveConfig(surrogate="elbo:3", importance_clamp=0), 6),
        (ObjectiveConfig(surrogate="gdpo:3", importance_clamp=0), 3),
        (ObjectiveConfig(surrogate="gdsd:2", importance_clamp=0), 4),
        (ObjectiveConfig(surrogate="agrpo:2"), 2),
        (ObjectiveConfig(surrogate="egspo:9"), 4),
        (ObjectiveConfig(surrogate="rldf:9"), 4),
        (ObjectiveConfig(surrogate="spg:2,block_length=8"), 2),
    ],
    ids=[
        "mean field",
        "d1",
        "2-MF",
        "more latents than calls",
        "exact",
        "coupled",
        "espo",
        "gdpo",
        "gdsd",
        "agrpo",
        "egspo",
        "rldf",
        "spg",
    ],
)
def test_expected_latents_by_hand_and_as_counted(objective: ObjectiveConfig, latents: float) -> None:
    """Of rows of four calls, a canvas long enough that hardly any latent scores nothing."""
    surrogate = load_surrogate(objective.surrogate)
    assert surrogate.cost(nfe=4).latents(rows=32, prompts=8) == 32 * latents
    batch = batch_of([str(row // 4) for row in range(32)], [[1, 2, 3, 4] * 8] * 32, [32] * 32)
    drawn = surrogate.draw(batch, keys(32), MASK)
    assert len(drawn) / 32 == pytest.approx(latents, rel=0.05)
    assert len(drawn.source) / batch.tokens.numel() == pytest.approx(surrogate.cost(nfe=4).scorings, rel=0.2)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_run_adds_them_up_and_goes_on_adding_after_a_resume(beta: float, start: str, tmp_path: Path) -> None:
    config = TrainConfig(
        model=start,
        output=str(tmp_path / "straight"),
        train="model",
        steps=3,
        prompts_per_step=3,
        num_generations=4,
        rollout=RolloutConfig(sampler="top_k:4"),
        objective=ObjectiveConfig(surrogate="mean_field:1", num_iterations=2, beta=beta),
        task=TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2)),
    )
    train(config, quiet=True)
    steps = read_metrics(tmp_path / "straight/metrics.jsonl")
    total = 0
    for step in steps:
        groups = 3 if beta else round(3 * (1 - step["frac_reward_zero_std"]))  # those without advantage are left out
        assert step["forwards/rollouts"] == round(step["nfe"] * 3 * 4)
        assert step["forwards/updates"] == (3 if beta else 2) * 2 * groups
        total += step["forwards/rollouts"] + step["forwards/updates"]
        assert step["forwards"] == total
    broken = replace(config, output=str(tmp_path / "broken"), steps=2)
    train(broken, quiet=True)
    (tmp_path / "broken/config.json").unlink()  # as if the run had been stopped after two of three steps
    train(replace(broken, steps=3), resume=True, quiet=True)
    assert read_metrics(tmp_path / "broken/metrics.jsonl")[-1]["forwards"] == total


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (ObjectiveConfig(surrogate="mean_field:2", num_iterations=2), 2),
        (ObjectiveConfig(surrogate="mean_field:2", num_iterations=1), 1),
        (ObjectiveConfig(surrogate="mean_field:1,prompt_mask_prob=0.15"), 2),
        (ObjectiveConfig(surrogate="mean_field:0", beta=0.1), 3),
        (ObjectiveConfig(surrogate="coupled:2", importance_clamp=0), 2),
        (ObjectiveConfig(surrogate="elbo", loss="clipped:0.2,ratio_level=sequence", importance_clamp=0), 2),
        (ObjectiveConfig(surrogate="gdpo", loss="clipped:0.5,ratio_level=sequence", importance_clamp=0), 2),
        (ObjectiveConfig(surrogate="mean_field:1", loss="wd1", importance_clamp=0), 1),
    ],
    ids=["2-MF", "2-MF, one update", "d1", "exact", "coupled", "espo", "gdpo", "wd1"],
)
def test_an_update_forwards_what_is_counted(objective: ObjectiveConfig, passes: int, start: str) -> None:
    """The slow twin: rows that really pass through the denoiser in the updates of a step."""
    config = TrainConfig(
        train="model",
        prompts_per_step=4,
        num_generations=4,
        rollout=RolloutConfig(sampler="top_k:4"),
        objective=objective,
        task=TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2)),
    )
    policy = load_policy(start)
    state = TrainState.begin(policy, config)
    state.experience = gather(state, load_task(config.task), config, World())
    seen = 0

    def watch(module: object, arguments: tuple) -> None:  # type: ignore[type-arg]
        nonlocal seen
        seen += len(arguments[1].starts)

    policy.denoiser.register_forward_pre_hook(watch)
    for _ in range(objective.num_iterations):
        update(state, config)
    assert seen > 0 and state.experience.summary["forwards/updates"] == passes * seen
