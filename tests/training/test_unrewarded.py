"""Rollouts without a reward: in no loss, no KL, no mean, no count; a step trains as if they had never been."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diffpo.config import ObjectiveConfig, RolloutConfig, TaskConfig, ThresholdConfig, TrainConfig
from diffpo.files.places import latest_checkpoint
from diffpo.losses import load_loss
from diffpo.models.policy import Policy, load_policy
from diffpo.models.threshold import ThresholdHead
from diffpo.processes.world import World
from diffpo.rollout.local import collect
from diffpo.tasks import load_task
from diffpo.training import collect as collecting
from diffpo.training import loop
from diffpo.training.loop import gather, train
from diffpo.training.metrics import read_metrics, summarize
from diffpo.training.state import Experience, TrainState
from diffpo.training.update import prepare, update
from diffpo.types import Batch, RolloutGroup

Silent = Callable[[int, int], bool]
"""Whether the rollout of a group (index, index) has no reward."""
SILENCES: dict[str, Silent] = {
    "half": lambda group, member: (group + member) % 2 == 0,
    "a group": lambda group, member: group == 1,
    "all of a group but one": lambda group, member: group == 2 and member > 0,
    "none": lambda group, member: False,
}
OBJECTIVES = {
    "grpo, KL": ObjectiveConfig(num_iterations=2, beta=0.1),
    "bnpo, KL, scaled": ObjectiveConfig(num_iterations=2, beta=0.1, loss_type="bnpo", scale_rewards=True),
    "dr_grpo": ObjectiveConfig(num_iterations=2, loss_type="dr_grpo"),
    "self-normalized": ObjectiveConfig(num_iterations=2, self_normalize=True),
    "elbo, KL": ObjectiveConfig(
        num_iterations=2, surrogate="elbo", loss="clipped:0.2,ratio_level=sequence", importance_clamp=0, beta=0.1
    ),
}


def silence(groups: Sequence[RolloutGroup], silent: Silent) -> list[RolloutGroup]:
    return [
        replace(
            group,
            rollouts=[
                replace(rollout, reward=math.nan, verdict=replace(rollout.verdict, reward=None))
                if silent(index, member)
                else rollout
                for member, rollout in enumerate(group.rollouts)
            ],
        )
        for index, group in enumerate(groups)
    ]


@pytest.fixture
def config(easy_task: TaskConfig) -> TrainConfig:
    return TrainConfig(
        task=easy_task,
        steps=2,
        prompts_per_step=4,
        num_generations=4,
        save_every=1,
        rollout=RolloutConfig(sampler="learned"),
        threshold=ThresholdConfig(delay_steps=0),
    )


def state_of(start: str, config: TrainConfig) -> TrainState:
    policy = load_policy(start)
    if config.rollout.sampler == "learned":
        policy.sampler_head = ThresholdHead(policy.denoiser.config.hidden_size, config.threshold)
    return TrainState.begin(policy, config)


def gradients(policy: Policy) -> dict[str, torch.Tensor | None]:
    modules = {"denoiser": policy.denoiser, "threshold": policy.sampler_head}
    return {
        f"{name}.{key}": parameter.grad
        for name, module in modules.items()
        if module
        for key, parameter in module.named_parameters()
    }


@pytest.mark.parametrize("silent", SILENCES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_is_that_of_the_rewarded_rollouts_alone(
    start: str, config: TrainConfig, silent: str, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, objective=OBJECTIVES[objective])
    found: list[RolloutGroup] = []

    def collect_some(*arguments) -> list[RolloutGroup]:  # type: ignore[no-untyped-def]
        found[:] = collect(*arguments)
        return silence(found, SILENCES[silent])

    monkeypatch.setattr(collecting, "collect", collect_some)
    state, twin = state_of(start, config), state_of(start, config)
    state.experience = gather(state, load_task(config.task), config, World())
    assert state.experience.summary["forwards/rollouts"] == sum(
        rollout.completion.nfe for group in found for rollout in group.rollouts
    )

    kept = [
        replace(group, rollouts=[r for member, r in enumerate(group.rollouts) if not SILENCES[silent](index, member)])
        for index, group in enumerate(found)
    ]
    advantages = [
        load_loss(config.objective.loss).advantages(
            torch.tensor([[rollout.reward for rollout in group.rollouts]]), config.objective.scale_rewards
        )
        for group in kept
        if group.rollouts
    ]
    batch = Batch.from_groups(kept, torch.cat([values.flatten() for values in advantages]))
    twin.experience = prepare(twin, batch, config)
    for _ in range(2):
        assert update(state, config, World()) == update(twin, config, World())
    ours, theirs = gradients(state.policy), gradients(twin.policy)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=0, msg=name)


def test_wd1_weighs_a_group_by_its_rewarded_rollouts(start: str, config: TrainConfig) -> None:
    """No factor of rollouts that are not there: the mean over rows is that of the smaller batch."""
    rewards = torch.tensor([[1.0, math.nan, 0.0, math.nan]])
    wd1 = load_loss("wd1")
    some, alone = wd1.advantages(rewards, False), wd1.advantages(torch.tensor([[1.0, 0.0]]), False)
    torch.testing.assert_close(some[0, [0, 2]], alone[0])


@pytest.mark.parametrize("mode", ["joint", "model", "sampler"])
def test_a_batch_without_any_reward_moves_nothing_and_is_no_error(
    start: str, config: TrainConfig, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "collect", lambda *arguments: silence(collect(*arguments), lambda *_: True))
    settings: dict[str, dict[str, Any]] = {
        "joint": {"objective": ObjectiveConfig(beta=0.1)},
        "model": {"objective": ObjectiveConfig(beta=0.1), "threshold": ThresholdConfig()},
        "sampler": {"objective": ObjectiveConfig()},
    }
    config = replace(config, model=start, train=mode, output=str(tmp_path / "run"), **settings[mode])
    policy = train(config, quiet=True)
    before = load_policy(start).denoiser.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.denoiser.state_dict().items())
    assert policy.sampler_head is not None and policy.sampler_head.untrained and not policy.sampler_head.count
    steps = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [step["forwards/updates"] for step in steps] == [0, 0] and steps[0]["forwards/rollouts"] > 0
    assert steps[0]["frac_reward_none"] == 1 and "reward" not in steps[0]


def test_a_run_stopped_with_such_a_batch_in_hand_goes_on(
    start: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "collect", lambda *arguments: silence(collect(*arguments), lambda *_: True))
    config = replace(config, model=start, output=str(tmp_path), objective=ObjectiveConfig(num_iterations=2, beta=0.1))

    def stopping(*arguments):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGTERM)
        return update(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", stopping)
        with pytest.raises(KeyboardInterrupt, match="a resumed run goes on"):
            train(config, quiet=True)
    held: list[Experience] = []
    monkeypatch.setattr(loop, "update", lambda state, *rest: held.append(state.experience) or update(state, *rest))
    newest, _ = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None and newest.name == "step_000000_iteration_01"
    train(config, resume=True, quiet=True)
    assert [len(experience.batch) for experience in held] == [0, 0, 0]  # one update of the first step was made before


def test_a_part_that_some_verdicts_lack_is_a_mean_of_the_others(start: str, config: TrainConfig) -> None:
    task, policy = load_task(config.task), load_policy(start)
    groups = collect(policy, task, task.prompts("train", 2), 2, RolloutConfig(sampler="top_k:4"), 0)
    parts = iter([{}, {"form": 1.0}, {"form": 0.5, "rare": 2.0}, {}])
    changed = [
        replace(group, rollouts=[replace(r, verdict=replace(r.verdict, parts=next(parts))) for r in group.rollouts])
        for group in groups
    ]
    metrics = summarize(changed)
    assert metrics["rewards/form/mean"] == 0.75 and metrics["rewards/rare/mean"] == 2.0


@pytest.mark.parametrize("num_silent", [1, 2])
def test_what_is_logged_of_groups_without_a_reward_counts(start: str, config: TrainConfig, num_silent: int) -> None:
    """A judge that logs its failures fails where there is no reward."""
    task, policy = load_task(config.task), load_policy(start)
    groups = collect(policy, task, task.prompts("train", 2), 2, RolloutConfig(sampler="top_k:4"), 0)
    logged = [
        replace(
            group,
            rollouts=[replace(r, reward=math.nan if index < num_silent else r.reward) for r in group.rollouts],
            metrics={"failed": float(index == 0)},
        )
        for index, group in enumerate(groups)
    ]
    assert summarize(logged)["logged/failed"] == 0.5
