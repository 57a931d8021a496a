"""Rollouts on Ray: workers that hold the policy and make shares of a step's prompts. The only place of Ray.

The prompts of a step are cut into as many contiguous units as there are workers, and each is given to the worker that
has least to do. A worker makes its units one after the other, each by one version of the weights, which it takes from
the object store where it has another. What a unit becomes is a function of its prompts, step and version, so a worker
may be lost at any time: its units are given to others, and another worker takes its place.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayError, RaySystemError, RayTaskError
from safetensors.torch import load, save

from diffpo.config import CollectConfig, TaskConfig, TrainConfig
from diffpo.files.recipe import from_dict
from diffpo.models.policy import Policy
from diffpo.processes.errors import in_transit
from diffpo.processes.world import World, buckets
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.training.collect import roll_out
from diffpo.training.remote import anywhere, code_of, dtypes_of, facts_of
from diffpo.training.start import start_policy
from diffpo.types import Prompt, RolloutGroup

MAX_LOSSES = 5
"""Workers lost for each that there is to be, without a unit made in between, before the run stops."""


# --- a worker ----------------------------------------------------------------------------------------------------


class Worker:
    """The actor: a policy like the run's own, at whatever version the unit in hand is to be made by."""

    def open(self, code: str, settings: dict[str, Any], task: Task | None) -> dict[str, str]:
        """Load policy and task; what both sides must agree on, and where it is. ValueError if its diffpo is another."""
        with _readable():
            return self._open(code, settings, task)

    def _open(self, code: str, settings: dict[str, Any], task: Task | None) -> dict[str, str]:
        if code != code_of():
            raise ValueError(f"the worker on {socket.gethostname()} has {code_of()}, the run {code}: install the same")
        self.config = from_dict(TrainConfig, settings)
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)
        self.task = task or load_task(self.config.task)
        self.policy, self.version = start_policy(self.config, World(device=torch.device(self.config.load.device))), -1
        for name, dtype in dtypes_of(self.policy, self.config).items():
            self.policy.denoiser.get_submodule(name.rpartition(".")[0]).to(dtype)
        return facts_of(self.policy) | {"host": socket.gethostname(), "pid": str(os.getpid())}

    def roll_out(self, unit: Unit) -> list[RolloutGroup]:
        """The groups of a unit; errors are those of the task's verifier and rewards."""
        if self.version != unit.version:
            for part in unit.weights:
                self.policy.load_weights(load(ray.get(part)), unit.version)
            self.version = unit.version
        with _readable():
            return roll_out(self.policy, self.task, unit.prompts, unit.step, self.config)


@contextmanager
def _readable() -> Iterator[None]:
    """Errors that could not be made again on the run's side, as some of clients of APIs, leave in words: what they
    were would not be known there, and Ray would tell of a lost worker."""
    try:
        yield
    except Exception as error:
        try:
            copy.deepcopy(error)  # as pickle does it
        except Exception:
            raise in_transit(error) from error
        raise


@dataclass(frozen=True, eq=False)
class Unit:
    """Prompts of a step, and the weights that are to answer them."""

    step: int
    prompts: Sequence[Prompt]
    version: int
    weights: Sequence[ray.ObjectRef]


# --- the run's side ----------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Seat:
    """A worker as the run sees it."""

    actor: Any
    opening: ray.ObjectRef | None
    """Its facts to come; None once it is up."""
    units: dict[ray.ObjectRef, Unit] = field(default_factory=dict)
    """What it has been given, by what is to come of it, in order."""
    heard: float = field(default_factory=time.monotonic)
    """When it last answered, or was given something to do."""
    host: str = ""
    pid: int = 0
    """Where it is, once it is up."""

    @property
    def awaited(self) -> list[ray.ObjectRef]:
        return [self.opening] if self.opening else list(self.units)

    @property
    def at(self) -> str:
        """What it is doing, in words."""
        if self.opening:
            return "as it started"
        unit = next(iter(self.units.values()), None)
        return f"on step {unit.step} from {unit.prompts[0].place or unit.prompts[0].id} on" if unit else "idle"


class RayCollector:
    """Makes rollouts on `rollout.workers` actors (`diffpo.training.collect.Collector`); rank 0 drives them."""

    def __init__(self, config: TrainConfig, task: Task, world: World) -> None:
        self.config, self.world, self.code = config, world, code_of()
        self.given = task if config.task == TaskConfig() else None
        if self.given is not None:  # one that no config names is sent, with the module that it is in
            cloudpickle.register_pickle_by_value(sys.modules[type(task).__module__])
        on_gpu = world.device.type == "cuda"
        self.gpus = float(on_gpu) if config.rollout.gpus_per_worker is None else config.rollout.gpus_per_worker
        self.settings = dataclasses.asdict(anywhere(config, "cuda" if self.gpus else "cpu"))
        self.seats: list[Seat] = []
        self.steps: dict[int, list[Unit]] = {}
        self.made: dict[Unit, list[RolloutGroup]] = {}
        self.waiting: list[Unit] = []
        self.lost = 0
        self.facts: dict[str, str] = {}
        self.published: tuple[int, list[ray.ObjectRef]] = (-1, [])
        self.joined = False
        world.on_main(self._open)

    def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
        if self.published[0] != policy.version:
            self.published = policy.version, self._publish(policy)
        self.world.on_main(lambda: self._begin(step, prompts, policy))

    def finish(self, step: int) -> list[RolloutGroup]:
        return self.world.on_main(lambda: self._finish(step))

    def close(self) -> None:
        for seat in self.seats:
            ray.kill(seat.actor)
        self.seats.clear()
        if self.joined:
            ray.shutdown()

    def _open(self) -> None:
        """Join Ray, or start it, and ask for the workers."""
        if not ray.is_initialized():
            _join(self.config.rollout, self.world, self.gpus)
            self.joined = True
        wanted, there = {"CPU": 1.0, "GPU": self.gpus}, ray.cluster_resources()
        room = min(int(there.get(kind, 0.0) / share) for kind, share in wanted.items() if share)
        workers = self.config.rollout.workers
        if not room:
            self.close()
            raise ValueError(
                f"rollout.workers: the cluster has no room for a worker of 1 CPU and {self.gpus:g} GPU: "
                "lower rollout.gpus_per_worker, or start Ray where there is"
            )
        if room < workers:
            warnings.warn(f"rollout.workers = {workers}: there is room for {room}; more join if it grows", stacklevel=2)
        self.room = min(room, workers)
        self.seats = [self._seat() for _ in range(workers)]

    def _seat(self) -> Seat:
        """Ask for a worker, which comes up when Ray has a place for it."""
        actor: Any = ray.remote(num_cpus=1, num_gpus=self.gpus)(Worker).remote()  # pyright: ignore
        return Seat(actor, actor.open.remote(self.code, self.settings, self.given))

    def _publish(self, policy: Policy) -> list[ray.ObjectRef]:
        """What learns, whole, in the object store: once a version, in the dtype that workers compute in."""
        dtypes, parts = dtypes_of(policy, self.config), []
        for bucket in buckets({**policy.trainable(), **policy.head_state}):
            whole = self.world.whole(bucket)  # all ranks have a part in it, the first has all of it
            if self.world.is_main:
                values = {n: value.to("cpu", dtypes.get(n, value.dtype)).contiguous() for n, value in whole.items()}
                parts.append(ray.put(save(values)))
        return parts

    def _begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
        if not self.facts:
            self.facts = facts_of(policy)
            while sum(seat.opening is None for seat in self.seats) < self.room:
                self._listen()
        while self._listen(0.0):  # who has answered meanwhile has less to do
            pass
        shares = [World(rank, len(self.seats)).share(len(prompts)) for rank in range(len(self.seats))]
        units = [Unit(step, prompts[share.start : share.stop], *self.published) for share in shares if share]
        self.steps[step] = units
        self.waiting += units
        self._give()

    def _finish(self, step: int) -> list[RolloutGroup]:
        units = self.steps[step]
        while any(unit not in self.made for unit in units):
            self._listen()
        del self.steps[step]
        return [group for unit in units for group in self.made.pop(unit)]

    def _give(self) -> None:
        """Give what nobody has to the workers that are up: to those with least to do, of these to who began first."""
        up = [seat for seat in self.seats if seat.opening is None]
        while up and self.waiting:
            seat, unit = min(up, key=lambda seat: (len(seat.units), seat.heard)), self.waiting.pop(0)
            if not seat.units:
                seat.heard = time.monotonic()
            seat.units[seat.actor.roll_out.remote(unit)] = unit

    def _listen(self, seconds: float = 1.0) -> bool:
        """Wait for an answer and take it, or else find out who has not answered for too long; whether there was one."""
        seats = {ref: seat for seat in self.seats for ref in seat.awaited}
        answered = ray.wait(list(seats), num_returns=1, timeout=seconds)[0] if seats else []
        for ref in answered:
            seat = seats[ref]
            seat.heard = time.monotonic()
            try:
                found = ray.get(ref)
            except RayTaskError as error:  # what the policy, the task or a reward has raised
                said = (str(error.cause).strip() or type(error.cause).__name__).splitlines()[0]
                if isinstance(error.cause, RaySystemError):  # or it could not be read there
                    raise ValueError(f"what a run sends to its workers must be importable there: {said}") from None
                gone = isinstance(error.cause, OSError) and error.cause.errno is None  # Ray's own: its store
                if gone or isinstance(error.cause, RayError):  # it was cancelled there, or weights were lost
                    self._replace(seat, said)
                    continue
                raise error.cause from None
            except RayError as error:
                self._replace(seat, str(error).strip().splitlines()[0])
            else:
                self._take(seat, ref, found)
        limit = self.config.rollout.worker_timeout
        for seat in [] if answered else list(self.seats):
            if seat.awaited and time.monotonic() - seat.heard > limit:
                self._replace(seat, f"no answer for {limit:g} s (rollout.worker_timeout)")
        self._give()
        return bool(answered)

    def _take(self, seat: Seat, ref: ray.ObjectRef, found: Any) -> None:
        if ref in seat.units:
            self.made[seat.units.pop(ref)] = found
            self.lost = 0
            return
        if other := [name for name, fact in self.facts.items() if found[name] != fact]:
            raise ValueError(
                f"the policy of the worker on {found['host']} differs from the run's in {', '.join(other)}: see that "
                f"{self.config.model} is the same on all machines"
            )
        seat.opening, seat.host, seat.pid = None, found["host"], int(found["pid"])

    def _replace(self, seat: Seat, why: str) -> None:
        """Another worker in the place of one that is lost; its units go to whoever is up."""
        self.lost, most, last = self.lost + 1, MAX_LOSSES * len(self.seats), f"{seat.at}: {why.rstrip('.')}"
        if self.lost > most:
            raise ValueError(f"rollout.workers: {self.lost} were lost in a row, the last {last}; Ray's logs say more")
        said = f"a rollout worker was lost {last}; another takes its place ({self.lost} of {most} in a row)"
        warnings.warn(said, stacklevel=2)
        ray.kill(seat.actor)
        self.waiting = [*seat.units.values(), *self.waiting]
        self.seats[self.seats.index(seat)] = self._seat()


def _join(rollout: CollectConfig, world: World, gpus: float) -> None:
    """Join the cluster at `rollout.address`, or start one on this machine with the GPUs that the run leaves free."""
    settings: dict[str, Any] = {"address": rollout.address}
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if not rollout.address:
        free = _free_gpus(world) if gpus else []
        settings = {"address": "local", "num_cpus": rollout.workers, "num_gpus": len(free), "include_dashboard": False}
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(free)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells of its defaults
    handler = signal.getsignal(signal.SIGTERM)
    with _environment(environment):
        try:
            ray.init(**settings, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError:
            raise ValueError(
                f"rollout.address = {rollout.address}: no Ray cluster answers there: start one (docs/distributed.md), "
                "or leave it out for one of this machine alone"
            ) from None
        except Exception as error:  # Ray has no narrower kind for one that does not come up in its 30 seconds
            where = f"rollout.address = {rollout.address}" if rollout.address else "rollout.workers"
            said = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{where}: Ray does not start: {said} (a busy machine is slow to: run the command again when it is not)"
            ) from error
    if threading.current_thread() is threading.main_thread():  # Ray has taken the signal for itself
        signal.signal(signal.SIGTERM, handler)


def _free_gpus(world: World) -> list[str]:
    """The GPUs of this machine that the run's own processes do not use, as CUDA_VISIBLE_DEVICES names them."""
    everything = ",".join(map(str, range(torch.cuda.device_count())))
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", everything).split(",") if name]
    own = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if world.device.type == "cuda" else 0
    return visible[own:]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within, variables that processes which are started inherit."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)
