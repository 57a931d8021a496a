"""Whole steps of a recipe, phase by phase: throughput, memory, and the share of this machine's peak that is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

import torch
from torch.profiler import profile

from diffpo.config import CollectConfig, LoadConfig, ObjectiveConfig, OptimConfig, ThresholdConfig, TrainConfig
from diffpo.files.record import with_task
from diffpo.lab.bench.measure import Tally, Work, matmul_peak, peak_bytes, seconds
from diffpo.lab.bench.workloads import PROMPT_LENGTHS, IdsTask, random_policy, random_requests
from diffpo.models.pointwise import is_wanted
from diffpo.models.policy import Policy
from diffpo.models.transformer import TransformerConfig
from diffpo.objective import Objective
from diffpo.processes.world import World
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.tasks.chat import check_fit
from diffpo.training.collect import roll_out
from diffpo.training.loop import gather
from diffpo.training.start import make_ready, start_policy
from diffpo.training.state import TrainState
from diffpo.training.update import latents_of, prepare, update
from diffpo.types import Batch, Request, RolloutGroup
from diffpo.view.progress import Progress


@dataclass(frozen=True)
class Phase:
    """One part of a step: what goes through it, and what it takes."""

    name: str
    seconds: float
    """Of a step, or the median over several."""
    sequences: int
    """Completions."""
    tokens: int
    """Tokens of their canvases."""
    rows: int
    """Rows through the denoiser, backward passes not counted."""
    flops: float
    """Operations that the model asks for: forward, backward; what is computed again is not counted, nor adapters."""
    bytes: int
    """The most that it held beside what stood before."""

    def utilisation(self, peak: float) -> float:
        """Share of `peak` operations a second."""
        return self.flops / self.seconds / peak


@dataclass(frozen=True)
class Measured:
    """A recipe's step on this machine."""

    phases: tuple[Phase, ...]
    peak: float
    """Operations a second of a matrix product on this machine, in the model's dtype."""
    nfe: float


@dataclass
class Bench:
    """A run to take steps of."""

    config: TrainConfig
    policy: Policy
    task: Task
    world: World

    def __post_init__(self) -> None:
        self.state = TrainState.begin(self.policy, self.config)
        self.groups: list[RolloutGroup] = []

    def roll_out(self) -> None:
        """Rollouts of the step's prompts."""
        num, step = self.config.prompts_per_step, self.state.step
        prompts = self.task.prompts("train", num, start=step * num)
        self.groups = roll_out(self.policy, self.task, prompts, step, self.config)

    def score(self) -> None:
        """Old log-probs, and the reference's. Every row counts, whatever its reward: good and bad in turn."""
        rows = sum(len(group.rollouts) for group in self.groups)
        batch = Batch.from_groups(self.groups, torch.tensor([1.0, -1.0]).repeat(rows)[:rows])
        self.state.experience = prepare(self.state, batch, self.config, self.world)

    def learn(self) -> None:
        """All mu updates, of a batch that nothing has scored with what goes before."""
        if not self.scorings:
            self.score()
        self.state.iteration = 0
        while self.state.iteration < self.config.objective.num_iterations:
            update(self.state, self.config, self.world)

    def phases(self) -> dict[str, Callable[[], None]]:
        ahead = {"old log-probs": self.score} if self.scorings else {}
        return {"rollouts": self.roll_out, **ahead, "updates": self.learn}

    @property
    def scorings(self) -> int:
        """How often the batch is scored before its first update: by the policy as it is, and by the reference."""
        return Objective.of(self.config.objective).scores_ahead + (self.config.objective.beta > 0)

    def scored(self) -> int:
        """Log-probs of tokens that one pass over the batch takes, all iterations together."""
        objective, experience = Objective.of(self.config.objective), self.state.experience
        assert experience is not None
        if self.config.train == "sampler":
            return 0
        rows, iterations = range(len(experience.live)), range(self.config.objective.num_iterations)
        drawn = (latents_of(experience, iteration, rows, objective, self.policy.mask_id) for iteration in iterations)
        return sum(len(latents.source) for latents in drawn)


def joint_step(policy: Policy, requests: Sequence[Request], num_iterations: int, group: int) -> Work:
    """What takes a step of joint DiFFPO on these requests' prompts: rollouts, rewards and updates."""
    config = TrainConfig(
        prompts_per_step=len(requests) // group,
        num_generations=group,
        load=LoadConfig(device="cpu"),
        rollout=CollectConfig(gen_length=requests[0].gen_length, block_length=requests[0].block_length, num_slots=64),
        objective=ObjectiveConfig(num_iterations=num_iterations),
        optim=OptimConfig(micro_batch_tokens=2048),
    )
    policy.add_head(ThresholdConfig(delay_steps=0))
    bench = Bench(config, policy, IdsTask(requests), World())

    def step() -> None:
        bench.state.experience = gather(bench.state, bench.task, config, bench.world)
        bench.learn()

    return step


def open_bench(config: TrainConfig, shape: TransformerConfig | None = None, sharpness: float = 1.0) -> Bench:
    """The recipe's model and task; of a `shape`, random weights and random prompts of 20 to 200 tokens instead."""
    world = World.join(config.load.device)
    if shape is None:
        task, policy = load_task(with_task(config).task), start_policy(config, world)
        check_fit(task, policy.is_tiny)
        return Bench(config, policy, task, world)
    half = config.load.dtype == "bfloat16" or (config.load.dtype != "float32" and world.device.type == "cuda")
    policy = random_policy(shape, sharpness, torch.bfloat16 if half else torch.float32, world.device)
    make_ready(policy, config, learns=config.train != "sampler")
    if config.rollout.sampler == "learned":
        policy.add_head(config.head, config.seed)
    if is_wanted(config.load.compile, world.device):
        policy.denoiser.fuse()
    lengths = [PROMPT_LENGTHS[index % len(PROMPT_LENGTHS)] for index in range(config.prompts_per_step)]
    task = IdsTask(random_requests(policy, lengths, config.rollout.sampler), config.rollout.gen_length or 256)
    return Bench(config, policy, task, world)


def take_step(bench: Bench) -> Iterator[Phase]:
    """A step, phase by phase as they are asked for, with what goes through the denoiser and what is held."""
    policy, device, taken = bench.policy, bench.world.device, list[float]()
    for name, work in bench.phases().items():
        with Tally(policy) as tally:
            held = peak_bytes(lambda work=work: taken.append(seconds(work, device)), device)
        if name != "rollouts":  # the others do not call the head
            tally.score(bench.scored() * (bench.scorings if name == "old log-probs" else 1))
        flops = backward_flops(tally, bool(policy.adapter)) if name == "updates" else tally.flops
        canvases = [len(rollout.completion.tokens) for group in bench.groups for rollout in group.rollouts]
        yield Phase(name, taken[-1], len(canvases), sum(canvases), tally.rows, flops, held)


def measure(bench: Bench, repeats: int, quiet: bool = False, profiles: Path | None = None) -> Measured:
    """Take `repeats` steps after one that counts operations and bytes; median seconds of each phase.

    `profiles` is a folder for a trace of each phase (chrome://tracing), taken in a step of its own.
    """
    device, denoiser = bench.world.device, bench.policy.denoiser
    with Progress("bench", repeats + 1 + bool(profiles), quiet) as progress:
        counted = list(take_step(bench))
        nfe = fmean(rollout.completion.nfe for group in bench.groups for rollout in group.rollouts)
        progress.advance()
        if profiles:
            profiles.mkdir(parents=True, exist_ok=True)
            for name, work in bench.phases().items():
                trace(work, profiles / f"{name.replace(' ', '_')}.json")
            progress.advance()
        taken: dict[str, list[float]] = {phase.name: [] for phase in counted}
        for _ in range(repeats):
            bench.state.step += 1
            for name, work in bench.phases().items():
                taken[name].append(seconds(work, device))
            progress.advance(seconds=sum(times[-1] for times in taken.values()))
    phases = tuple(replace(phase, seconds=median(taken[phase.name])) for phase in counted)
    return Measured(phases, matmul_peak(denoiser.compute_dtype or denoiser.head.weight.dtype, device), nfe)


def backward_flops(forward: Tally, adapters: bool) -> float:
    """Operations of a forward and a backward pass: gradients of activations, and of weights unless adapters learn.

    Attention has two matrix products forward and four backward.
    """
    weights = 0 if adapters else 1
    return (2 + weights) * (forward.linears + forward.head) + 3 * forward.attention


def trace(work: Callable[[], None], path: Path) -> None:
    """A torch profiler trace of `work`."""
    with profile() as profiler:
        work()
    profiler.export_chrome_trace(str(path))
