"""A training run's folder, checkpoints, metrics, display and end: everything about a run that is not its algorithm."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from diffpo.models.policy import Policy
from diffpo.progress import Progress
from diffpo.recipe import from_dict, to_json
from diffpo.training.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from diffpo.training.distributed import World
from diffpo.training.metrics import Metrics, MetricsLog, alarms
from diffpo.training.state import Optimizers, TrainState
from diffpo.training.trackers import Trackers, check_trackers, flatten

MAX_SKIPPED = 5
"""Updates skipped in a row before the run stops."""

FREE = (
    *("output", "num_threads", "log_with", "save_every", "keep_checkpoints", "load.device"),
    *("optim.micro_batch_size", "optim.gradient_checkpointing", "rollout.num_slots"),
)
"""Settings that a resumed run may change: they change files, memory or speed, not what is computed."""


class RunConfig(Protocol):
    """What a run reads of its config, a frozen dataclass."""

    @property
    def output(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def keep_checkpoints(self) -> int: ...
    @property
    def log_with(self) -> tuple[str, ...]: ...


class Run:
    """One run, on every rank of its world; rank 0 alone writes and talks.

        run = Run("train", config, world, resume)
        state = run.restore(policy, create_optimizers)
        with run:
            for step in range(state.step, config.steps):
                ...
                run.stop_if_asked()  # between two updates
                state.step = step + 1
                run.log(step, metrics)
                if run.due(config.save_every):
                    run.save()

    The end of the block saves a checkpoint and the policy. ValueError if the output folder holds another run.
    """

    def __init__(self, title: str, config: RunConfig, world: World, resume: bool = False, quiet: bool = False) -> None:
        check_trackers(config.log_with)
        self.title, self.config, self.world, self.resume, self.quiet = title, config, world, resume, quiet
        self.folder = Path(config.output)
        self.checkpoints = self.folder / "checkpoints"
        self.stop_asked = False
        self.ringing: set[str] = set()
        self.found, self.lines = world.on_main(self._look)

    def _look(self) -> tuple[Path | None, list[str]]:
        """The checkpoint to go on from, and what to say of it."""
        found, lines = latest_checkpoint(self.checkpoints)
        self._check_folder()
        if found:
            lines.append(f"resuming from {found}")
        elif self.resume:
            lines.append(f"{self.checkpoints}: no good checkpoint yet; starting from the first step")
        return found, lines

    def _check_folder(self) -> None:
        """A new run needs a folder of its own; a resumed one must be the run that the folder holds."""
        path = self.folder / "config.json"
        if not path.is_file():
            return
        if not self.resume:
            raise ValueError(f"{self.folder} already holds a run: pass --resume to go on with it, or another --output")
        try:
            before = _settings(from_dict(type(self.config), json.loads(path.read_text())))
        except ValueError as error:
            raise ValueError(f"{path}: {error}; start another --output") from None
        now = _settings(self.config)
        changed = [name for name in now if now[name] != before[name]]
        if changed:
            raise ValueError(
                f"{path} differs from this config in {', '.join(changed)}: resume with the run's own settings, "
                "or start another --output"
            )

    def restore(
        self, policy: Policy, create_optimizers: Callable[[Policy], Optimizers], keep_start: bool = False
    ) -> TrainState:
        """The state that the run goes on from: `policy`, which stands at the start of the run, or a checkpoint of it.

        The policy is changed in place, and sharded where the world shards. `keep_start` keeps its values at the start.
        """
        start = {name: parameter.detach().clone() for name, parameter in policy.trainable().items() if keep_start}
        if self.found:
            policy.restore(self.found / "policy")
        self.world.shard(policy.denoiser)
        self.state = TrainState(policy, create_optimizers(policy))
        if keep_start:
            parameters = policy.trainable()
            self.state.start = {name: self.world.share_of(start.pop(name), parameters[name]) for name in parameters}
        if self.found:
            load_checkpoint(self.found, self.state, self.world)
        self.progress = Progress(
            self.title, self.config.steps, self.quiet or not self.world.is_main, done=self.state.step
        )
        self.world.on_main(self._open)
        return self.state

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics = MetricsLog(self.folder / "metrics.jsonl", self.state.step)
        self.trackers = Trackers(self.config.log_with, self.folder, _plain(self.config))
        for line in self.lines:
            self.progress.note(line)

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
        if self.world.is_main:
            self.trackers.close()
        if _in_main_thread():
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        if kind is None:
            self.save()
            policy = self.state.policy
            weights = self.world.whole(policy.trainable())
            self.world.on_main(lambda: policy.save_pretrained(self.folder / "policy", weights))

    def _ask_to_stop(self, number: int, frame: object) -> None:
        # a launcher passes a signal on to processes that may have had it from the terminal already: not a second wish
        if self.stop_asked and self.world.num_ranks == 1:
            raise KeyboardInterrupt("stopped at once; --resume goes on from the last checkpoint")
        if not self.stop_asked:
            self.stop_asked = True
            self.progress.note(f"{signal.Signals(number).name}: saving after this update")

    def stop_if_asked(self) -> None:
        """End the run where it stands, between two updates, with the rollouts in hand on disk.

        All ranks stop at the same update, whichever was asked.
        """
        if self.world.any(self.stop_asked):
            folder = self.save()
            raise KeyboardInterrupt(f"saved {folder}; --resume goes on from there")

    def save(self) -> Path:
        """Write a checkpoint; all ranks call it."""
        if self.world.is_main:
            self._claim_folder()
        return save_checkpoint(self.checkpoints, self.state, self.config.keep_checkpoints, self.world)

    def _claim_folder(self) -> None:
        """Say whose folder this is; not before there is something to resume, or a start that fails would claim it."""
        (self.folder / "config.json").write_text(to_json(self.config) + "\n")

    def due(self, every: int) -> bool:
        """Whether the step just finished is one of every `every`; the last one is saved by the end of the run."""
        return every > 0 and self.state.step % every == 0 and self.state.step < self.config.steps

    def count_skipped(self, metrics: Metrics) -> None:
        """Count updates skipped in a row; FloatingPointError when they are too many."""
        failed = any(value for name, value in metrics.items() if name.endswith("/skipped"))
        self.state.skipped = self.state.skipped + 1 if failed else 0
        if self.state.skipped >= MAX_SKIPPED:
            raise FloatingPointError(
                f"{MAX_SKIPPED} updates in a row had a non-finite gradient: lower optim.learning_rate; the last good "
                f"checkpoint is in {self.checkpoints}"
            )

    def log(self, step: int, metrics: Metrics) -> None:
        """Write a step's metrics to metrics.jsonl and the trackers, show the main ones, say which alarms ring."""
        if not self.world.is_main:
            return
        now = time.perf_counter()
        metrics = metrics | {"time/step_seconds": now - self.started}
        self.started = now
        self._claim_folder()
        self.metrics.write(step, metrics)
        self.trackers.log(step, metrics)
        self.progress.advance(**{name: metrics[name] for name in SHOWN if name in metrics})
        ringing = alarms(metrics)
        for name in sorted(ringing.keys() - self.ringing):  # once, not at every step that it goes on ringing
            self.progress.note(f"step {step}: {ringing[name]}")
        self.ringing = set(ringing)


SHOWN = ("loss", "reward", "accuracy", "nfe", "gamma")
"""Metrics beside the progress bar, where a run has them."""


def _plain(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _settings(config: Any) -> dict[str, Any]:
    """Settings by dotted name, without those that a resumed run may change."""
    return {name: value for name, value in flatten(_plain(config)).items() if name not in FREE}


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
