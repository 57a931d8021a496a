"""What an analysis looks at: a policy, its rollouts of a task's test prompts, and the policy it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffpo.config import OptimConfig, TrainConfig
from diffpo.functional.random import make_key
from diffpo.lab.analysis.settings import AnalysisConfig
from diffpo.models.policy import Policy
from diffpo.objective import Objective
from diffpo.processes.world import World
from diffpo.rollout.local import collect
from diffpo.surrogates import load_surrogate
from diffpo.tasks.base import Task
from diffpo.types import Batch, Prompt, RolloutGroup


@dataclass(frozen=True, eq=False)
class Subject:
    """Everything that a section may read."""

    policy: Policy
    task: Task
    prompts: Sequence[Prompt]
    config: TrainConfig
    """The objective and the rollouts as in training."""
    settings: AnalysisConfig
    groups: Sequence[RolloutGroup]
    """G rollouts of each prompt, as in training."""
    batch: Batch
    """The same as tensors, but for rollouts without a reward."""
    policies: Mapping[str, Policy]
    """Those that are compared, by name, such as the one before training; `policy` is the last."""

    @property
    def clusters(self) -> Tensor:
        """Which prompt each row of the batch answers, [B]."""
        rewarded = [sum(rollout.rewarded for rollout in group.rollouts) for group in self.groups]
        return torch.arange(len(self.groups)).repeat_interleave(torch.tensor(rewarded))

    @property
    def least(self) -> int:
        """Prompts that must reach a call for its mean to be shown: an eighth of them."""
        return max(2, len(self.prompts) // 8)

    @property
    def world(self) -> World:
        return World(device=self.policy.device)


def look_at(policies: Mapping[str, Policy], task: Task, config: TrainConfig, settings: AnalysisConfig) -> Subject:
    """Decode the test prompts as training would by the last of `policies`, and make a subject of it.

    ValueError if the task has too few prompts.
    """
    *_, policy = policies.values()
    loss = Objective.of(config.objective).loss
    for spec in settings.surrogates:  # what is not there is said before anything is decoded
        load_surrogate(spec)
    prompts = task.prompts("test", settings.num_prompts)
    if "gradients" in settings.parts and len(prompts) < settings.gradient_batches:
        mend = "raise analysis.num_prompts, or lower that"
        if len(prompts) < settings.num_prompts:  # the task has no more
            mend = "name more rows with task.test_data, or leave gradients out of analysis.parts"
        few = f"{len(prompts)} test prompts are fewer than analysis.gradient_batches = {settings.gradient_batches}"
        raise ValueError(f"{few}: {mend}")
    config = TrainConfig(  # of a run's settings, what its rollouts and its objective depend on
        train="model",
        seed=config.seed,
        task=config.task,
        rollout=config.rollout,
        objective=config.objective,
        num_generations=settings.num_generations,
        optim=OptimConfig(micro_batch_tokens=settings.micro_batch_tokens),
    )
    objective = config.objective
    speed = objective.speed_weight, objective.speed_gate
    key = make_key(config.seed, "analysis")
    groups = collect(policy, task, prompts, settings.num_generations, config.rollout, key, *speed)
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    advantages = loss.advantages(rewards, objective.scale_rewards).flatten()
    batch = Batch.from_groups(groups, advantages).to(policy.device)
    if not len(batch):
        raise ValueError(f"no reward for any of the {advantages.numel()} rollouts: analyze another task or reward")
    return Subject(policy, task, prompts, config, settings, groups, batch, policies)


def decode(
    subject: Subject, policy: Policy, sampler: str, temperature: float = 0.0, num_generations: int = 1
) -> list[RolloutGroup]:
    """The prompts of `subject` answered by `policy` with another sampler; greedily unless `temperature` says more."""
    rollout = replace(subject.config.rollout, sampler=sampler, temperature=temperature)
    key = make_key(subject.config.seed, "decode")
    return collect(policy, subject.task, subject.prompts, num_generations, rollout, key)
