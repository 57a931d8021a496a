"""Who makes a run's rollouts, and when: the seam between the loop and what decodes for it.

Rollouts of step s are made by the policy after step s - k (`rollout.lag`), or by the first where that is before the
start. A collector is told to begin on a step's prompts while that policy stands, and asked for the groups k steps
later, when the step is trained on. They are a function of policy, prompts and step alone, whoever makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch

from diffpo.config import TrainConfig
from diffpo.functional.random import make_key
from diffpo.losses import load_loss
from diffpo.models.lora import merged_adapters
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.rewards.calls import TrainerState
from diffpo.rollout.local import collect
from diffpo.tasks.base import Task
from diffpo.training.metrics import summarize
from diffpo.training.sharding import gathered
from diffpo.training.state import Rollouts, TrainState
from diffpo.types import Batch, Prompt, RolloutGroup

OnGroups = Callable[[int, Sequence[RolloutGroup]], None]
"""Sees the rollouts of a step, of all ranks, as soon as they are there."""


class Collector(Protocol):
    """Makes the rollouts of several steps, each by the policy that stood when it was begun. All ranks call it alike."""

    def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
        """Begin on the rollouts of a step by the policy as it stands; it may change as soon as this returns."""
        ...

    def finish(self, step: int) -> list[RolloutGroup]:
        """The groups of a step that was begun, of all ranks, in the order of its prompts, once.

        What a reward function or a verifier raises is raised here, or by `begin`.
        """
        ...

    def close(self) -> None:
        """Let go of everything, whatever is still being made."""
        ...


OpenCollector = Callable[[TrainConfig, Task, World], Collector]
"""What `train` opens its collector with."""


def open_collector(config: TrainConfig, task: Task, world: World) -> Collector:
    """The collector that a config asks for; ValueError says why there is none."""
    if not config.rollout.workers:
        return InProcess(config, task, world)
    try:
        from diffpo.training.ray_workers import RayCollector  # which takes a second to import
    except ModuleNotFoundError as error:
        raise ValueError(f"rollout.workers: {error}: pip install 'diffpo[ray]'") from None

    return RayCollector(config, task, world)


class InProcess:
    """The run's own processes make the rollouts at once, each rank its share of the prompts, and hold them."""

    def __init__(self, config: TrainConfig, task: Task, world: World) -> None:
        self.config, self.task, self.world = config, task, world
        self.made: dict[int, list[RolloutGroup]] = {}

    def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
        share = self.world.share(len(prompts))
        own = prompts[share.start : share.stop]
        with gathered(self.world, policy.denoiser):
            self.made[step] = self.world.on_all(
                lambda: roll_out(policy, self.task, own, step, self.config) if own else []
            )

    def finish(self, step: int) -> list[RolloutGroup]:
        return self.made.pop(step)

    def close(self) -> None:
        self.made.clear()


def roll_out(
    policy: Policy, task: Task, prompts: Sequence[Prompt], step: int, config: TrainConfig
) -> list[RolloutGroup]:
    """Groups of some of a step's prompts: what a group becomes depends on no other."""
    with as_decoded(policy, config):
        return collect(
            policy,
            task,
            prompts,
            config.num_generations,
            config.rollout,
            make_key(config.seed, "rollout", step),
            config.objective.speed_weight,
            config.objective.speed_gate,
            TrainerState(step, config.steps),
            config.rollout.hints,
        )


def as_decoded(policy: Policy, config: TrainConfig) -> AbstractContextManager[None]:
    """Within, the policy computes as rollouts are made."""
    return merged_adapters(policy.denoiser) if config.rollout.merge_adapters else nullcontext()


def begin(state: TrainState, task: Task, config: TrainConfig, collector: Collector) -> None:
    """Begin the rollouts that are the present policy's to make: of the step `lag` ahead, at first of all up to it."""
    last = max(state.step, min(state.step + config.rollout.lag, config.steps - 1))
    for step in range(state.step, last + 1):
        if step not in state.ahead:
            prompts = task.prompts("train", config.prompts_per_step, start=step * config.prompts_per_step)
            collector.begin(step, prompts, state.policy)
            state.ahead[step] = None


def land(
    state: TrainState,
    config: TrainConfig,
    collector: Collector,
    on_groups: OnGroups | None = None,
    until: int | None = None,
) -> None:
    """Have in hand the rollouts that were begun, up to those of step `until`, or all."""
    for step in sorted(state.ahead):
        if state.ahead[step] is None and (until is None or step <= until):
            groups = collector.finish(step)
            state.ahead[step] = _rollouts_of(groups, step, config)
            if on_groups:  # which may raise: a collector gives its groups once
                on_groups(step, groups)


def settle(state: TrainState, config: TrainConfig, collector: Collector, on_groups: OnGroups | None = None) -> None:
    """Bring the state into the shape that a checkpoint holds: rollouts that are begun are awaited.

    All but those of the policy as it stands, which can make them again: a run whose rewards fail is saved where it is.
    """
    if state.experience is None:
        state.ahead = {
            step: found for step, found in state.ahead.items() if found or step < state.step + config.rollout.lag
        }
    land(state, config, collector, on_groups)


def _rollouts_of(groups: Sequence[RolloutGroup], step: int, config: TrainConfig) -> Rollouts:
    """What training keeps of a step's groups."""
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    advantages = load_loss(config.objective.loss).advantages(rewards, config.objective.scale_rewards).flatten()
    summary = {"age": float(min(step, config.rollout.lag))} | summarize(groups)
    forwards = sum(r.completion.nfe for group in groups for r in group.rollouts)
    forwards += sum(group.unused_calls for group in groups)
    return Rollouts(Batch.from_groups(groups, advantages), summary, forwards)


def check_ahead(state: TrainState, config: TrainConfig) -> None:
    """ValueError where a resumed run lacks rollouts that policies of the past were to make: it was to end before."""
    first = state.step + (state.experience is not None)
    wanted = range(first, min(first + config.rollout.lag, config.steps) if first else first)
    if lost := [step for step in wanted if step not in state.ahead]:
        raise ValueError(
            f"steps = {config.steps}: the run was to end after {lost[0]}, and the policies that were to make further "
            f"rollouts (rollout.lag = {config.rollout.lag}) are gone: steps = {lost[0]}, or start a run from its policy"
        )
