"""A training run's folder, checkpoints, metrics, display and end: everything about a run that is not its algorithm."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from diffpo.config import SftConfig, TrainConfig
from diffpo.files.folder import write_folder, write_text
from diffpo.files.places import BEST, find_run, latest_checkpoint, list_checkpoints
from diffpo.files.recipe import to_json
from diffpo.models.export import save_with_card
from diffpo.models.finite import bad_weight, not_finite
from diffpo.models.policy import Policy
from diffpo.objective import Objective
from diffpo.planning.changes import advise
from diffpo.processes.errors import is_on_all
from diffpo.processes.signals import ASKED, on_stop
from diffpo.processes.world import World
from diffpo.rollout.judging import VerifierError
from diffpo.rollout.log import RolloutLog, extremes
from diffpo.training.banner import banner
from diffpo.training.best import best_of, keep_best, measured_by
from diffpo.training.checkpoint import load_checkpoint, save_checkpoint
from diffpo.training.clock import REST, Clock
from diffpo.training.metrics import Metrics, MetricsLog, alarms, doubts
from diffpo.training.resume import changed, check_same, digests, on_every_rank, recorded
from diffpo.training.sharding import shard
from diffpo.training.state import Optimizers, TrainState
from diffpo.training.trackers import check_trackers, named, open_trackers
from diffpo.types import RolloutGroup
from diffpo.view.progress import Progress

MAX_SKIPPED = 5
"""Updates skipped in a row before the run stops."""


class Run:
    """One run, on every rank of its world; rank 0 alone writes and talks.

        with Run("train", config, world, resume) as run:
            state = run.restore(policy, data)
            for step in range(state.step, config.steps):
                ...
                run.stop_if_asked()  # between two updates
                state.step = step + 1
                run.log(step, metrics)
                if run.due(config.save_every):
                    run.save()

    Within the block no other process writes to the run's folder; its end saves a checkpoint and the policy. ValueError
    if the folder holds another run.
    """

    def __init__(
        self, title: str, config: TrainConfig | SftConfig, world: World, resume: bool = False, quiet: bool = False
    ) -> None:
        check_trackers(config.log_with)
        self.title, self.config, self.world, self.resume, self.quiet = title, config, world, resume, quiet
        self.folder = Path(config.output)
        self.checkpoints = self.folder / "checkpoints"
        self.stop_asked = False
        self.before_save: Callable[[], None] = lambda: None
        """Brings the state into a shape that a checkpoint can hold."""
        self.ringing: set[str] = set()
        self.stack = ExitStack()

    def __enter__(self) -> Run:
        if self.world.num_ranks > 1:
            self.world.check_alike(on_every_rank(self.config))
        with ExitStack() as stack:
            stack.enter_context(self.world.owned(self.folder))
            self.found, self.lines, self.record = self.world.on_main(self._look)
            self.measured = measured_by(self.config, self.record["inputs"])
            self.stack = stack.pop_all()
        return self

    def _look(self) -> tuple[Path | None, list[str], dict[str, Any]]:
        """The checkpoint to go on from, what to say of it, and what is recorded of the run.

        A new run needs a folder of its own; a resumed one must be the run that the folder holds.
        """
        place = self.folder.resolve()
        if (whole := find_run(place)) not in (None, place):
            raise ValueError(f"{self.folder} is a part of the run in {whole}: resume that, or choose another output")
        found, lines = latest_checkpoint(self.checkpoints)
        now = digests(self.config)
        record: dict[str, Any] = {"id": secrets.token_hex(4), "inputs": {}}
        if found or (self.folder / "config.json").is_file():
            if not self.resume:
                raise ValueError(f"{self.folder} already holds a run: resume it, or choose another output")
            record |= recorded(self.folder / "run.json")
            own = found or self.folder  # what was computed with: the folder's own file may have been edited
            check_same(own / "config.json", self.config, record["inputs"], now)
            lines += changed(record["inputs"], now)
        if found:
            lines.append(f"resuming from {found}")
        elif self.resume:
            lines.append(f"{self.checkpoints}: no good checkpoint yet; starting from the first step")
        return found, lines, record | {"inputs": record["inputs"] | now}

    def restore(self, policy: Policy, data: str, keep_start: bool = False) -> TrainState:
        """The state that the run goes on from: `policy`, which stands at the start of the run, or a checkpoint of it.

        The policy is changed in place, and sharded where the world shards. `keep_start` keeps its values at the start.
        `data` is what it learns from, to be said.
        """
        self.lines += banner(self.config, policy, self.world, data)
        start = {name: parameter.detach().clone() for name, parameter in policy.trainable().items() if keep_start}
        if self.found:
            policy.restore(self.found / "policy")
        shard(self.world, policy.denoiser)
        self.state = TrainState(policy, Optimizers.create(policy, self.config))
        if keep_start:
            parameters = policy.trainable()
            self.state.start = {name: self.world.share_of(start.pop(name), parameters[name]) for name in parameters}
        if self.found:
            load_checkpoint(self.found, self.state, self.world)
        if self.state.step > self.config.steps:
            raise ValueError(f"steps = {self.config.steps}, but the run has made {self.state.step}: ask for more")
        quiet, spent = self.quiet or not self.world.is_main, sum(self.state.seconds.values())
        self.progress = Progress(
            self.title, self.config.steps, quiet, self.state.step, self.config.log_every, spent=spent
        )
        self.world.on_main(self._open)
        # from here on a signal is a wish to stop between two updates; until then it stops at once
        self.stack.enter_context(on_stop(self._ask_to_stop, signal.SIGINT, *ASKED))
        self.stack.enter_context(self.progress)
        self.clock, self.first = Clock(self.state.seconds), self.state.step
        return self.state

    def _open(self) -> None:
        step = self.state.step
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", step)
        if lost := self.metrics.lost:
            self.lines.append(f"{self.metrics.path}: {lost} of the {step} steps made have no row there, and get none")
        self.trackers = open_trackers(self.config, self.folder, self.record["id"], step)
        for name, tracker in self.trackers.items():
            self.stack.callback(named(name)(tracker.close))
        if isinstance(self.config, TrainConfig):
            kept = step + bool(self.state.experience) + len(self.state.ahead)
            self.rollouts = RolloutLog(self.folder / "rollouts.jsonl.gz", kept, self.config.log_rollouts)
            if lost := self.rollouts.lost:
                self.lines.append(f"{self.rollouts.path}: of {lost} of {kept} steps no rollouts are there, nor will be")
        for line in self.lines:
            self.progress.note(line)

    def __exit__(self, kind, error, trace) -> None:
        with self.stack:
            if isinstance(error, torch.OutOfMemoryError):
                advice = advise(self.config)
                raise MemoryError(f"out of memory: {str(error).partition('. ')[0]}; {advice}") from error
            if kind is None:
                self.save()
                best = best_of(self.folder, self.measured) if self.world.is_main else None
                if best and best["steps"] < self.state.step:
                    when = f"after step {best['steps']}" if best["steps"] else "of the start"
                    self.progress.note(f"the best evaluation was {when}: {self.folder / BEST} has that policy")
                policy = self.state.policy
                weights = self.world.whole(policy.trainable())
                self.world.on_main(
                    lambda: write_folder(
                        self.folder / "policy",
                        lambda draft: save_with_card(policy, draft, weights),
                        f"; the run is done and stands in {self.checkpoints}: make room and resume",
                    )
                )

    def _ask_to_stop(self, number: int, frame: object) -> None:
        # a launcher passes a signal on to processes that may have had it from the terminal already: not a second wish
        if self.stop_asked and self.world.num_ranks == 1:
            kept = "a resumed run goes on from the last checkpoint"
            raise KeyboardInterrupt(
                f"stopped at once; {kept if list_checkpoints(self.checkpoints) else 'there is no checkpoint yet'}"
            )
        if not self.stop_asked:
            self.stop_asked = True
            self.progress.note(f"{signal.Signals(number).name}: saving after this update")

    def phase(self, phase: str, said: str = "") -> None:
        """What the step is at, for the clock and, as it is `said`, for the progress line."""
        self.clock.enter(phase)
        self.progress.phase(said or phase)

    def scoring(self) -> None:
        """The rollouts of the step under way are in hand."""
        config = self.config
        assert isinstance(config, TrainConfig)
        self.clock.enter("scoring")
        if config.train != "sampler" and (Objective.of(config.objective).scores_ahead or config.objective.beta):
            self.progress.phase("old log-probs")

    def stop_if_asked(self) -> None:
        """End the run where it stands, between two updates, with the rollouts in hand on disk.

        All ranks stop at the same update, whichever was asked.
        """
        if self.world.any(self.stop_asked):
            folder = self.save()
            raise KeyboardInterrupt(f"saved {folder}; a resumed run goes on from there")

    def save(self) -> Path:
        """Write a checkpoint; all ranks call it."""
        self.before_save()
        self.state.seconds = self.clock.read()
        if self.world.is_main:
            self._claim_folder()
        return save_checkpoint(self.checkpoints, self.state, self.config, self.config.keep_checkpoints, self.world)

    def judge_start(self, evaluate: Callable[[int], Metrics]) -> None:
        """Evaluate what the run starts from, the first to beat, unless that is done; all ranks call it."""
        known = self.world.on_main(lambda: best_of(self.folder, self.measured))
        if self.state.step or self.state.experience or known:
            return
        self.progress.phase("evaluation of the start")
        metrics = self.judge(0, evaluate)
        said = (f"{name} {value:.4g}" for name, value in metrics.items() if name != "eval/below_best")
        self.progress.note(f"at the start {', '.join(said)}")

    def judge(self, num_steps: int, evaluate: Callable[[int], Metrics]) -> Metrics:
        """`evaluate` the policy after `num_steps`, and keep it in RUN/best if none was better; all ranks call it."""
        metrics = evaluate(num_steps)
        return metrics | keep_best(self.folder, self.state.policy, num_steps, metrics, self.measured, self.world)

    def _claim_folder(self) -> None:
        """Say whose folder this is; not before there is something to resume, or a start that fails would claim it."""
        for name, text in {"config.json": to_json(self.config), "run.json": json.dumps(self.record, indent=2)}.items():
            path = self.folder / name
            if not path.is_file() or path.read_text() != text + "\n":
                write_text(path, text + "\n")

    @contextmanager
    def kept(self, *kinds: type[Exception]) -> Iterator[None]:
        """Save before bad data, a bad reward, a verifier, a tracker, or one of `kinds` ends the run: no step is lost.

        Ranks save together: what only one of several raises costs the steps since the last checkpoint.
        """
        try:
            yield
        except (ValueError, VerifierError, *kinds) as error:
            together = self.world.num_ranks == 1 or is_on_all(error)
            if together and (self.state.step or self.state.experience):
                with suppress(type(error)):  # rollouts of later steps may meet it too: the last checkpoint has to do
                    self.save()
            raise

    def due(self, every: int) -> bool:
        """Whether the step just finished is one of every `every`; the last one is saved by the end of the run."""
        return every > 0 and self.state.step % every == 0 and self.state.step < self.config.steps

    def count_skipped(self, metrics: Metrics) -> None:
        """Count updates skipped in a row; FloatingPointError when they are too many."""
        failed = any(value for name, value in metrics.items() if name.endswith("/skipped"))
        self.state.skipped = self.state.skipped + 1 if failed else 0
        if self.state.skipped >= MAX_SKIPPED:
            if bad_weight(self.state.policy):
                raise not_finite(self.state.policy)
            raise FloatingPointError(
                f"{MAX_SKIPPED} updates in a row had a non-finite gradient: lower optim.learning_rate; the last good "
                f"checkpoint is in {self.checkpoints}"
            )

    def log_rollouts(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Keep the rollouts of a step, and show its best and worst completion where that is due; all ranks call it."""
        self.world.on_main(lambda: self._log_rollouts(step, groups))

    def _log_rollouts(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        config = self.config
        assert isinstance(config, TrainConfig)
        if step == self.first:
            for line in doubts(groups):
                self.progress.note(line)
        if config.log_rollouts:
            self.rollouts.write(step, groups)
        if config.show_rollouts and step % config.show_rollouts == 0:
            shown = extremes(groups)
            self._track(self.state.step, shown)  # which may be before it: W&B takes no step behind its newest
            for name, text in shown.items():
                self.progress.note(f"step {step}, {name.removeprefix('rollouts/')}: {text}")

    def log(self, step: int, metrics: Metrics) -> None:
        """Write a step's metrics to metrics.jsonl and the trackers, show the main ones, say which alarms ring.

        All ranks call it.
        """
        with self.kept():
            self.world.on_main(lambda: self._log(step, metrics))

    def _log(self, step: int, metrics: Metrics) -> None:
        spent = self.clock.read()
        self.clock.restart()
        metrics = metrics | {"time/step_seconds": sum(spent.values())}
        metrics |= {f"time/{phase}_seconds": seconds for phase, seconds in spent.items() if phase != REST}
        if self.world.device.type == "cuda":
            metrics["memory/peak_gib"] = torch.cuda.max_memory_allocated(self.world.device) / 2**30
            torch.cuda.reset_peak_memory_stats(self.world.device)
        self._claim_folder()
        self.metrics.write(step, metrics)
        self._track(step, metrics)
        self.progress.advance(**{name: metrics[name] for name in SHOWN if name in metrics})
        ringing = alarms(metrics, self.config)
        for name in sorted(ringing.keys() - self.ringing):  # once, not at every step that it goes on ringing
            self.progress.note(f"step {step}: {ringing[name]}")
        self.ringing = set(ringing)

    def _track(self, step: int, values: Mapping[str, float | str]) -> None:
        """Log to the trackers. Where one raises the run ends, and none is asked again as it is saved."""
        trackers, self.trackers = self.trackers, {}
        for name, tracker in trackers.items():
            with named(name):
                tracker.log(step, values)
        self.trackers = trackers


SHOWN = ("loss", "reward", "accuracy", "nfe", "gamma")
"""Metrics beside the progress bar, where a run has them."""
