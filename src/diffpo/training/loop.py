"""The reinforcement-learning loop: alternate rollouts and updates (DiFFPO, arXiv 2510.02212, Algorithm 1)."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from functools import partial
from pathlib import Path

import torch

from diffpo.config import TrainConfig
from diffpo.evaluation.evaluate import measure
from diffpo.functional.objective import group_advantages
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy, load_policy
from diffpo.models.threshold import ThresholdHead
from diffpo.progress import Progress
from diffpo.recipe import from_dict, to_json
from diffpo.rollout.local import collect
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.training.checkpoint import TrainState, latest_checkpoint, load_checkpoint, save_checkpoint
from diffpo.training.distributed import Trackers, check_trackers
from diffpo.training.metrics import Metrics, MetricsLog, alarms, mean_of, summarize
from diffpo.training.update import Experience, Optimizers, prepare, update
from diffpo.types import Batch

MAX_SKIPPED = 5
"""Updates skipped in a row before the run stops."""


def train(config: TrainConfig, resume: bool = False, quiet: bool = False) -> Policy:
    """Train a policy as `config` says and return it; `resume` goes on from the last good checkpoint in config.output.

    ValueError if the output folder holds another run, FloatingPointError if gradients stay non-finite.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    task = load_task(config.task)
    run = Run(config, resume, quiet)
    state, reference = run.state, run.reference
    with run:
        for step in range(state.step, config.steps):
            if state.experience is None:
                state.experience = gather(state.policy, reference, task, config, step)
            experience = state.experience
            while state.iteration < config.objective.num_iterations:
                metrics = update(state.policy, state.optimizers, experience, config, step, state.iteration)
                run.count_skipped(metrics)
                experience.updates.append(metrics)
                state.iteration += 1
                run.stop_if_asked()
            state.step, state.iteration, state.experience = step + 1, 0, None
            run.log(step, experience.summary | mean_of(experience.updates) | run.due_evaluation(task))
            if run.due(config.save_every):
                run.save()
    return state.policy


def gather(policy: Policy, reference: Policy | None, task: Task, config: TrainConfig, step: int) -> Experience:
    """The rollouts of one step with their advantages and old log-probs."""
    prompts = task.prompts("train", config.prompts_per_step, start=step * config.prompts_per_step)
    groups = collect(
        policy,
        task,
        prompts,
        config.num_generations,
        config.rollout,
        make_key(config.seed, "rollout", step),
        config.objective.speed_weight,
        config.objective.speed_gate,
    )
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    advantages = group_advantages(rewards, config.objective.scale_rewards).flatten()
    batch = Batch.from_groups(groups, advantages)
    if config.train != "model" and policy.threshold is not None and policy.threshold.untrained:
        assert batch.features is not None
        policy.threshold.observe(batch.features)
    return prepare(policy, reference, batch, config, step, summarize(groups, config))


class Run:
    """One run's folder, display and end: everything about a run that is not the algorithm."""

    def __init__(self, config: TrainConfig, resume: bool, quiet: bool) -> None:
        check_trackers(config.log_with)
        self.config = config
        self.folder = Path(config.output)
        self.checkpoints = self.folder / "checkpoints"
        self.stop_asked = False
        self.ringing: set[str] = set()
        found, lines = latest_checkpoint(self.checkpoints)
        self._check_folder(resume)
        self.reference = load_policy(config.model) if config.objective.beta else None
        if found:
            self.state = load_checkpoint(found, partial(Optimizers.create, config=config))
            lines.append(f"resuming from {found}")
        else:
            policy = load_policy(config.model)
            if config.rollout.sampler == "learned" and policy.threshold is None:
                policy.threshold = ThresholdHead(policy.denoiser.config.hidden_size, config.threshold)
            self.state = TrainState(policy, Optimizers.create(policy, config))
            if resume:
                lines.append(f"{self.checkpoints}: no good checkpoint yet; starting from the first step")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", self.state.step)
        self.trackers = Trackers(config.log_with, self.folder, dataclasses.asdict(config))
        self.progress = Progress("train", config.steps, quiet, done=self.state.step)
        for line in lines:
            self.progress.note(line)

    def _check_folder(self, resume: bool) -> None:
        """A new run needs a folder of its own; a resumed one must be the run that the folder holds."""
        path = self.folder / "config.json"
        if not path.is_file():
            return
        if not resume:
            raise ValueError(f"{self.folder} already holds a run: pass --resume to go on with it, or another --output")
        before = dataclasses.asdict(from_dict(TrainConfig, json.loads(path.read_text())))
        now = dataclasses.asdict(self.config)
        free = ("output", "num_threads", "log_with", "save_every", "keep_checkpoints")
        changed = [key for key in now if now[key] != before[key] and key not in free]
        if changed:
            raise ValueError(
                f"{path} differs from this config in {', '.join(changed)}: resume with the run's own settings, "
                "or start another --output"
            )

    def _claim_folder(self) -> None:
        """Say whose folder this is; not before there is something to resume, or a start that fails would claim it."""
        (self.folder / "config.json").write_text(to_json(self.config) + "\n")

    def __enter__(self) -> Run:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        if _in_main_thread():
            for number in self._handlers:
                signal.signal(number, self._ask_to_stop)
        self.progress.__enter__()
        self.started = time.perf_counter()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.progress.__exit__(kind, error, trace)
        self.trackers.close()
        if _in_main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        if kind is None:
            self.save()
            self.state.policy.save_pretrained(self.folder / "policy")

    def _ask_to_stop(self, number: int, frame: object) -> None:
        if self.stop_asked:
            raise KeyboardInterrupt("stopped at once; --resume goes on from the last checkpoint")
        self.stop_asked = True
        self.progress.note(f"{signal.Signals(number).name}: saving after this update")

    def stop_if_asked(self) -> None:
        """End the run where it stands, between two updates, with the rollouts in hand on disk."""
        if self.stop_asked:
            folder = self.save()
            raise KeyboardInterrupt(f"saved {folder}; --resume goes on from there")

    def save(self) -> Path:
        self._claim_folder()
        return save_checkpoint(self.checkpoints, self.state, self.config.keep_checkpoints)

    def due(self, every: int) -> bool:
        """Whether the step just finished is one of every `every`; the last one is saved by the end of the run."""
        return every > 0 and self.state.step % every == 0 and self.state.step < self.config.steps

    def count_skipped(self, metrics: Metrics) -> None:
        failed = any(value for name, value in metrics.items() if name.endswith("/skipped"))
        self.state.skipped = self.state.skipped + 1 if failed else 0
        if self.state.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{MAX_SKIPPED} updates in a row had a non-finite gradient: lower optim.learning_rate; the last good "
                f"checkpoint is in {self.checkpoints}"
            )

    def due_evaluation(self, task: Task) -> Metrics:
        """eval/ metrics of the policy under the run's own sampler, when they are due."""
        config = self.config
        if not config.eval_every or self.state.step % config.eval_every:
            return {}
        points = measure(self.state.policy, task, config.rollout.sampler, config.eval, config.rollout)
        metrics = {}
        for point in points:
            suffix = f"/{point.level}" if point.level else ""
            metrics |= {f"eval/accuracy{suffix}": point.accuracy, f"eval/nfe{suffix}": point.nfe}
        return metrics

    def log(self, step: int, metrics: Metrics) -> None:
        now = time.perf_counter()
        metrics = metrics | {"time/step_seconds": now - self.started}
        self.started = now
        self._claim_folder()
        self.metrics.write(step, metrics)
        self.trackers.log(step, metrics)
        self.progress.advance(
            **{name: metrics[name] for name in ("reward", "accuracy", "nfe", "gamma") if name in metrics}
        )
        ringing = alarms(metrics)
        for name in sorted(ringing.keys() - self.ringing):  # once, not at every step that it goes on ringing
            self.progress.note(f"step {step}: {ringing[name]}")
        self.ringing = set(ringing)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
