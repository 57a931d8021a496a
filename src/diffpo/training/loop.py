"""The reinforcement-learning loop: alternate rollouts and updates (DiFFPO, arXiv 2510.02212, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch

from diffpo.config import TaskConfig, TrainConfig
from diffpo.config.checks import check, expect
from diffpo.evaluation.answers import answer, asked, points_of
from diffpo.files.record import anchored, anchored_rules, with_task
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.rewards.calls import TrainerState
from diffpo.rollout.local import check_prompts
from diffpo.tasks import load_solved_task, load_task
from diffpo.tasks.base import SolvedTask, Task
from diffpo.tasks.chat import check_fit
from diffpo.training.banner import check_named, open_own, open_task
from diffpo.training.clock import REST
from diffpo.training.collect import (
    Collector,
    InProcess,
    OnGroups,
    OpenCollector,
    begin,
    check_ahead,
    land,
    open_collector,
    settle,
)
from diffpo.training.metrics import Metrics, mean_of
from diffpo.training.run import Run
from diffpo.training.sharding import gathered
from diffpo.training.staleness import staleness
from diffpo.training.start import start_policy
from diffpo.training.state import Experience, TrainState
from diffpo.training.update import count_forwards, prepare, update

OnStep = Callable[[TrainState, Metrics], None]


def train(
    config: TrainConfig,
    resume: bool = False,
    quiet: bool = False,
    *,
    task: Task | None = None,
    on_step: OnStep | None = None,
    collect: OpenCollector = open_collector,
) -> Policy:
    """Train a policy as `config` says and return it; `resume` goes on from the last good checkpoint in config.output.

    `task` is one of your own, in place of what config.task names. `on_step(state, metrics)` is called once a step is
    made and logged, before it is saved. `collect` opens what makes the rollouts (`diffpo.training.collect`). Under
    `accelerate launch` every process calls `train`, and they train together. ValueError if the output folder holds
    another run, FloatingPointError if gradients stay non-finite.
    """
    expect(TrainConfig, config, "config", "load_config(TrainConfig, ...) reads a recipe")
    config = config if task else with_task(config)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    world = World.join(config.load.device)
    with Run("train", config, world, resume, quiet) as run:
        task = task_of(config, task)
        open_own(config)
        data = world.on_main(lambda: open_task(task, config))
        policy = start_policy(config, world)
        check_fit(task, policy.is_tiny)
        run.lines += check_prompts(policy, task, ["train", "test"] if config.eval_every else ["train"], config.rollout)
        collector = run.stack.enter_context(closing(collect(config, task, world)))
        state = run.restore(policy, data, keep_start=config.objective.beta > 0)
        check_ahead(state, config)
        run.before_save = partial(settle, state, config, collector, run.log_rollouts)
        remember(policy, task, config)
        evaluate = partial(evaluate_policy, state, task, config, world)
        if config.eval_every:
            run.judge_start(evaluate)
        for step in range(state.step, config.steps):
            if state.experience is None:
                run.phase("rollouts")
                with run.kept():
                    state.experience = gather(state, task, config, world, run.log_rollouts, collector, run.scoring)
            experience = state.experience
            while state.iteration < config.objective.num_iterations:
                run.phase("updates", f"update {state.iteration + 1}/{config.objective.num_iterations}")
                run.count_skipped(update(state, config, world))
                run.stop_if_asked()
            run.clock.enter(REST)
            with run.kept():
                due = config.eval_every and (step + 1) % config.eval_every == 0
                evaluation = run.judge(step + 1, evaluate) if due else {}
            state.end_step()
            metrics = experience.summary | mean_of(experience.updates) | evaluation
            run.log(step, metrics)
            if on_step:
                with run.kept(Exception):
                    world.on_all(partial(_tell, on_step, state, metrics))
            if run.due(config.save_every):
                run.save()
    return state.policy


def remember(policy: Policy, task: Task, config: TrainConfig) -> None:
    """Let the policy say what it was trained on, and how it is decoded and measured."""
    policy.task = anchored(config.task) if config.task != TaskConfig() else None
    policy.rollout = anchored_rules(config.rollout.decoding).sized(task.gen_length)
    policy.eval = anchored_rules(config.eval)


def _tell(on_step: OnStep, state: TrainState, metrics: Metrics) -> tuple[()]:
    on_step(state, metrics)
    return ()


def task_of(config: TrainConfig, given: Task | None) -> Task:
    """The task of a run: the one that is `given` in Python, else what config.task names. ValueError for two of them."""
    if given is None:
        check_named(config.task, config.model)
        if config.rollout.hints:
            return load_solved_task(config.task, "rollout.hints: ", "leave hints out")
        return load_task(config.task)
    solved = not config.rollout.hints or isinstance(given, SolvedTask)
    check(solved, f"rollout.hints: {given.name} knows no solutions (a method `solution`): leave hints out")
    named = config.task.name
    check(config.task == TaskConfig(), f"task: {given.name} is given, and config.task says {named} too: drop one")
    return given


def gather(
    state: TrainState,
    task: Task,
    config: TrainConfig,
    world: World,
    on_groups: OnGroups | None = None,
    collector: Collector | None = None,
    on_landed: Callable[[], None] = lambda: None,
) -> Experience:
    """The rollouts of the step under way with their advantages and old log-probs.

    Before that, those are begun that the policy as it stands is to make: of this step, or of the one that is
    `rollout.lag` steps ahead. `on_groups` sees them as they land, which a save may have seen to before; `on_landed` is
    called once those of this step are in hand. A collector of None makes rollouts in this process.
    """
    collector = collector or InProcess(config, task, world)
    begin(state, task, config, collector)
    land(state, config, collector, on_groups, state.step)
    rollouts = state.ahead[state.step]
    assert rollouts
    on_landed()
    replayed = staleness(state, rollouts.batch, config, world)
    experience = prepare(state, rollouts.batch, config, world)
    forwards = count_forwards(state, experience, rollouts.forwards, config)
    experience.summary = rollouts.summary | replayed | forwards
    del state.ahead[state.step]  # not before: policies of the past could not make them again
    return experience


def evaluate_policy(state: TrainState, task: Task, config: TrainConfig, world: World, num_steps: int) -> Metrics:
    """eval/ metrics of the policy as it stands, after `num_steps` steps, by the run's own sampler.

    Ranks share the prompts.
    """
    wanted = asked(task.prompts("test", config.eval.num_prompts), config.eval.num_samples)
    share, early_exit = world.share(len(wanted)), not config.eval.full_canvas
    rollout = replace(config.rollout.decoding, temperature=config.eval.temperature)
    at = TrainerState(num_steps, config.steps)
    with gathered(world, state.policy.denoiser):
        answers = world.on_all(
            lambda: answer(state.policy, task, wanted[share.start : share.stop], rollout, 0, early_exit, at)
        )
    points = points_of(rollout.sampler, answers)
    metrics = {}
    for point in points:
        suffix = f"/{point.level}" if point.level else ""
        metrics |= {f"eval/accuracy{suffix}": point.accuracy, f"eval/nfe{suffix}": point.nfe}
    return metrics
