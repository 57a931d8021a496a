"""The reinforcement-learning loop: alternate rollouts and updates (DiFFPO, arXiv 2510.02212, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from diffpo.config import RolloutConfig, TaskConfig, TrainConfig
from diffpo.config.checks import check
from diffpo.evaluation.answers import answer, asked, points_of
from diffpo.functional.random import make_key
from diffpo.losses import load_loss
from diffpo.models.lora import merged_adapters
from diffpo.models.policy import Policy
from diffpo.objective import open_objective
from diffpo.record import anchored, anchored_rules, with_task
from diffpo.rewards.calls import TrainerState
from diffpo.rollout.local import check_prompts, collect
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.tasks.chat import check_fit
from diffpo.training.banner import check_named, open_rules, open_task
from diffpo.training.distributed import World
from diffpo.training.forwards import count_forwards
from diffpo.training.metrics import Metrics, mean_of, summarize
from diffpo.training.run import Run
from diffpo.training.state import Experience, Optimizers, TrainState, load_start
from diffpo.training.update import prepare, update
from diffpo.types import Batch, RolloutGroup

OnGroups = Callable[[Sequence[RolloutGroup]], None]
OnStep = Callable[[TrainState, Metrics], None]
OWN_OF_HEAD = {
    "threshold": ("level", "gamma_max", "gamma_init", "sigma", "bound"),
    "bernoulli": ("width", "chance_init"),
}
"""Settings that a sampler head keeps for life."""


def train(
    config: TrainConfig,
    resume: bool = False,
    quiet: bool = False,
    *,
    task: Task | None = None,
    on_step: OnStep | None = None,
) -> Policy:
    """Train a policy as `config` says and return it; `resume` goes on from the last good checkpoint in config.output.

    `task` is one of your own, in place of what config.task names. `on_step(state, metrics)` is called once a step is
    made and logged, before it is saved. Under `accelerate launch` every process calls `train`, and they train together.
    ValueError if the output folder holds another run, FloatingPointError if gradients stay non-finite.
    """
    config = config if task else with_task(config)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    world = World.join(config.load.device)
    create_optimizers = partial(Optimizers.create, config=config)
    with Run("train", config, world, resume, quiet) as run:
        task = task_of(config, task)
        open_rules(config)
        open_objective(config)
        data = world.on_main(lambda: open_task(task, config))
        policy = start_policy(config, world)
        check_fit(task, policy.is_tiny)
        own, asked = policy.denoiser.config.block_length, config.rollout.block_length
        if own and asked not in (None, own):
            run.lines.append(f"attention is in blocks of {asked} (rollout.block_length): the model's own have {own}")
        run.lines += check_prompts(policy, task, ["train", "test"] if config.eval_every else ["train"], config.rollout)
        state = run.restore(policy, create_optimizers, data, keep_start=config.objective.beta > 0)
        policy.task = anchored(config.task) if config.task != TaskConfig() else None
        policy.rollout = with_canvas(anchored_rules(config.rollout), task)
        policy.eval = anchored_rules(config.eval)
        for step in range(state.step, config.steps):
            if state.experience is None:
                run.phase("rollouts")
                with run.kept():
                    state.experience = gather(state, task, config, world, run.log_rollouts)
            experience = state.experience
            while state.iteration < config.objective.num_iterations:
                run.phase(f"update {state.iteration + 1}/{config.objective.num_iterations}")
                run.count_skipped(update(state, config, world))
                run.stop_if_asked()
            state.end_step()
            evaluation = evaluate_if_due(state, task, config, world)
            metrics = experience.summary | mean_of(experience.updates) | evaluation
            run.log(step, metrics)
            if on_step:
                on_step(state, metrics)
            if run.due(config.save_every):
                run.save()
    return state.policy


def task_of(config: TrainConfig, given: Task | None) -> Task:
    """The task of a run: the one that is `given` in Python, else what config.task names. ValueError for two of them."""
    if given is None:
        check_named(config.task, config.model)
        return load_task(config.task)
    named = config.task.name
    check(config.task == TaskConfig(), f"task: {given.name} is given, and config.task says {named} too: drop one")
    return given


def with_canvas(rollout: RolloutConfig, task: Task) -> RolloutConfig:
    """The rollout with the task's canvas length where it names none."""
    return replace(rollout, gen_length=rollout.gen_length or task.gen_length)


def start_policy(config: TrainConfig, world: World) -> Policy:
    """The policy at the start of a run, on the rank's device: config.model with what config adds to it."""
    policy = load_start(config, world, learns=config.train != "sampler")
    if config.rollout.sampler == "learned" and policy.sampler_head is None:
        policy.add_head(config.head, config.seed)
    elif config.rollout.sampler == "learned":
        _check_head(policy, config)
    return policy


def _check_head(policy: Policy, config: TrainConfig) -> None:
    """ValueError for a head that is asked for where the model brings one of its own, of another kind or shape."""
    head = policy.sampler_head
    assert head
    if head.kind != config.sampler_head:
        raise ValueError(
            f"sampler_head = {config.sampler_head}: {config.model} brings its own {head.kind} head: say {head.kind}"
        )
    for name in OWN_OF_HEAD[head.kind]:
        asked, own = getattr(config.head, name), getattr(head.config, name)
        if asked not in (own, getattr(type(head.config), name)):
            raise ValueError(
                f"{head.kind}.{name} = {asked} does nothing: {config.model} brings its own {head.kind} head, with "
                f"{own}: leave it out"
            )


def gather(
    state: TrainState, task: Task, config: TrainConfig, world: World, on_groups: OnGroups | None = None
) -> Experience:
    """The rollouts of one step with their advantages and old log-probs; each rank decodes its share of the prompts.

    `on_groups` sees the rollouts of all ranks before they are scored.
    """
    policy = state.policy
    prompts = task.prompts("train", config.prompts_per_step, start=state.step * config.prompts_per_step)
    groups: list[RolloutGroup] = []
    merged = merged_adapters(policy.denoiser) if config.rollout.merge_adapters else nullcontext()
    with world.gathered(policy.denoiser), merged:
        if share := world.share(len(prompts)):
            groups = collect(
                policy,
                task,
                prompts[share.start : share.stop],
                config.num_generations,
                config.rollout,
                make_key(config.seed, "rollout", state.step),
                config.objective.speed_weight,
                config.objective.speed_gate,
                TrainerState(state.step, config.steps),
            )
    groups = world.gather(groups)
    if on_groups:
        on_groups(groups)
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    advantages = load_loss(config.objective.loss).advantages(rewards, config.objective.scale_rewards).flatten()
    experience = prepare(state, Batch.from_groups(groups, advantages), config, world, summarize(groups, config))
    experience.summary |= count_forwards(state, experience, groups, config)
    return experience


def evaluate_if_due(state: TrainState, task: Task, config: TrainConfig, world: World) -> Metrics:
    """eval/ metrics of the policy under the run's own sampler, when they are due; ranks share the prompts."""
    if not config.eval_every or state.step % config.eval_every:
        return {}
    wanted = asked(task.prompts("test", config.eval.num_prompts), config.eval.num_samples)
    share, early_exit = world.share(len(wanted)), not config.eval.full_canvas
    rollout = replace(config.rollout, temperature=config.eval.temperature)
    at = TrainerState(state.step, config.steps)
    with world.gathered(state.policy.denoiser):
        answers = answer(state.policy, task, wanted[share.start : share.stop], rollout, 0, early_exit, at)
    points = points_of(rollout.sampler, world.gather(answers))
    metrics = {}
    for point in points:
        suffix = f"/{point.level}" if point.level else ""
        metrics |= {f"eval/accuracy{suffix}": point.accuracy, f"eval/nfe{suffix}": point.nfe}
    return metrics
