"""What a card is asked: rollouts against the published loops, a step by phases, log-probs alone and in a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from diffpo.config import TrainConfig
from diffpo.lab.bench import plain
from diffpo.lab.bench.measure import Tally, Work, in_turn, matmul_peak, now, seconds
from diffpo.lab.bench.steps import Bench, open_bench, take_step
from diffpo.lab.bench.workloads import PROMPT_LENGTHS, batch_of, random_policy, random_requests, some_cuts
from diffpo.models.families import FAMILIES
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.pointwise import is_wanted
from diffpo.models.policy import Policy
from diffpo.models.transformer import TransformerConfig
from diffpo.planning.gpus import Gpu
from diffpo.planning.plan import Cluster, Start, plan
from diffpo.rollout.engine import generate
from diffpo.types import Batch, Request, Sampler
from diffpo.view.progress import short

GIB = 2**30


@dataclass(frozen=True)
class Figure:
    """One number of the suite, and the goal that it has, if any; or why there is none."""

    name: str
    value: float = 0.0
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    failed: str = ""
    part: str = ""

    @property
    def reached(self) -> bool:
        """Whether it was measured and meets its goal."""
        low = self.at_least is None or self.value >= self.at_least
        return not self.failed and low and (self.at_most is None or self.value <= self.at_most)

    @property
    def goal(self) -> str:
        """ ">= 3", "<= 90 s", or "" where there is none."""
        goals = ((">=", self.at_least), ("<=", self.at_most))
        return " ".join(f"{sign} {goal:g} {self.unit}".strip() for sign, goal in goals if goal is not None)

    @property
    def shown(self) -> str:
        """The value to three digits, with its unit."""
        return f"{short(self.value)} {self.unit}".strip()


@dataclass(frozen=True)
class Size:
    """What is measured: the default is LLaDA-8B's work on an 80 GB card, tests take a tiny one."""

    shape: TransformerConfig
    step: TrainConfig
    """Of the whole step."""
    lengths: Sequence[int] = PROMPT_LENGTHS
    """Tokens of the prompts."""
    group: int = 4
    """Completions of each in rollouts."""
    canvas: int = 256
    block: int = 32
    calls: int = 64
    plain_rows: int = 16
    """Rows of a batch of the published loops, whose noise over the vocabulary must fit."""
    device: str = "cpu"
    matmul: int = 8192
    """Rows of the square matrices whose product is the peak."""
    tests: tuple[str, ...] = ("tests/gpu", "-m", "gpu")
    """What pytest is told."""

    def requests(self, policy: Policy, calls: int, canvas: int, group: int) -> list[Request]:
        return random_requests(policy, self.lengths, f"steps:{calls}", canvas, self.block, group=group)

    def policy(self) -> Policy:
        """Random weights on the device, fused as a policy of that size is when it is loaded."""
        place = torch.device(self.device)
        policy = random_policy(self.shape, 1.0, torch.bfloat16, place)
        if is_wanted(None, place):
            policy.denoiser.fuse()
        return policy


def rollouts(size: Size) -> Iterator[Figure]:
    """The same requests exact, with the dual cache, and by the published loops; what a steady call costs the host."""
    policy, device = size.policy(), torch.device(size.device)
    exact = size.requests(policy, size.calls, size.canvas, size.group)
    dual = [replace(request, cache="dual", refresh_every=8) for request in exact]
    tallies: dict[str, Tally] = {}

    def ours(name: str, requests: Sequence[Request]) -> None:
        with Tally(policy) as tallies[name]:
            generate(policy, requests)

    def theirs(requests: Sequence[Request], noise: torch.dtype | None) -> None:
        for start in range(0, len(requests), size.plain_rows):
            plain.decode(policy, requests[start : start + size.plain_rows], noise)

    for requests in (exact, dual):  # kernels are chosen, compiled and loaded
        generate(policy, [replace(r, sampler=Sampler("steps", 2 * size.canvas // size.block)) for r in requests])
    works: dict[str, Work] = {
        "exact": lambda: ours("exact", exact),
        "dual cache": lambda: ours("dual cache", dual),
        "d1's loop": lambda: theirs(exact, None),
        "LLaDA's loop": lambda: theirs(exact, torch.float64),
    }
    taken = in_turn(works, 1, device)
    peak, tokens = matmul_peak(torch.bfloat16, device, size.matmul), len(exact) * size.canvas
    for name, spent in taken.items():
        yield Figure(f"{name}: {len(exact)} answers of {size.canvas} tokens, {size.calls} calls", spent, "s")
        yield Figure(f"{name}: tokens a second", tokens / spent)
    for name, goal in {"exact": 3.0, "dual cache": 8.0}.items():
        yield Figure(f"{name}: times as fast as d1's loop", taken["d1's loop"] / taken[name], at_least=goal)
        yield Figure(f"{name}: times as fast as LLaDA's loop", taken["LLaDA's loop"] / taken[name])
    yield Figure("a matrix product's operations a second", peak / 1e12, "TFLOP/s")
    for name, goal in {"exact": 0.45, "dual cache": None}.items():
        yield Figure(f"{name}: share of that", tallies[name].flops / taken[name] / peak, at_least=goal)
    for name, cache in (("exact", "none"), ("dual cache", "dual")):
        for what, count in (("waits of the host", host_waits), ("kernels", kernels)):
            yield Figure(f"{name}: {what} in a steady call", _of_a_call(size, policy, cache, count))


def _of_a_call(size: Size, policy: Policy, cache: str, count: Callable[[Work, torch.device], int]) -> float:
    """What one more call of a block adds to a count: that of twice as many calls, less that of half as many."""
    few = max(2, size.block // 4)

    def counted(calls: int) -> int:
        requests = [replace(r, cache=cache) for r in size.requests(policy, calls, size.block, 1)]
        return count(lambda: generate(policy, requests), torch.device(size.device))

    return (counted(2 * few) - counted(few)) / few


def host_waits(work: Work, device: torch.device) -> int:
    """How often the host waits for the GPU within `work`, as torch.cuda.set_sync_debug_mode sees it."""
    if device.type != "cuda":
        work()
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def kernels(work: Work, device: torch.device) -> int:
    """Kernels and copies that `work` starts on a GPU, by torch's profiler; on a CPU, operators."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        work()
    wanted = "CUDA" if on_gpu else "CPU"
    return sum(event.device_type.name == wanted for event in profiler.events() or [])


def step(size: Size) -> Iterator[Figure]:
    """A whole step by phases, its first: seconds, share of the peak, memory beside what `plan` says."""
    bench, device = _warm_bench(size, size.step), torch.device(size.device)
    peak, said = matmul_peak(torch.bfloat16, device, size.matmul), _planned(size)
    optimizer = bench.state.optimizers.denoiser
    assert optimizer is not None
    started: list[float] = []
    stepped: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: started.append(now(device)))
    optimizer.register_step_post_hook(lambda *_: stepped.append(now(device) - started[-1]))
    total, stands = 0.0, _standing(device)
    for phase in take_step(bench):
        total += phase.seconds
        yield Figure(phase.name, phase.seconds, "s")
        yield Figure(f"{phase.name}: peak memory", (stands + phase.bytes) / GIB, "GiB")
        yield Figure(f"{phase.name}: peak memory that `diffpo plan` says", said[phase.name] / GIB, "GiB")
        if phase.name == "updates":
            yield Figure("updates: share of a matrix product's peak", phase.utilisation(peak), at_least=0.55)
        stands = _standing(device)
    yield Figure("of the updates, the optimiser", sum(stepped), "s")
    yield Figure(f"the whole step, {_described(size.step)}", total, "s", at_most=90)


def exact_rollouts(size: Size) -> Iterator[Figure]:
    """The rollouts of the step without a cache."""
    config = replace(size.step, rollout=replace(size.step.rollout, cache="none", cache_refresh=0))
    bench = _warm_bench(size, config)
    spent = seconds(bench.roll_out, torch.device(size.device))
    tokens = sum(len(rollout.completion.tokens) for group in bench.groups for rollout in group.rollouts)
    yield Figure(f"rollouts, {_described(config)}", spent, "s")
    yield Figure("rollouts: tokens a second", tokens / spent)


def alone_and_batched(size: Size) -> Iterator[Figure]:
    """bf16 log-probs of rows alone and in a batch: the same sums, in another order."""
    policy, device = size.policy(), torch.device(size.device)
    requests = size.requests(policy, 2 * size.canvas // size.block, size.canvas, 1)
    completions = generate(policy, requests)
    batch = batch_of(requests, completions).to(device)
    cuts = some_cuts(batch)
    with torch.no_grad():
        together = surrogate_logprobs(policy, batch, cuts, 1.0)
        alone = torch.cat([_one(policy, batch, cuts, row) for row in range(len(batch))])
    apart = (together - alone)[batch.loss_mask].abs()
    for what, nats in (("largest", apart.max()), ("mean", apart.mean())):
        yield Figure(f"alone against {len(batch)} rows: {what} difference of a log-prob", float(nats), "nats")
    tokens = [generate(policy, [request])[0].tokens for request in requests]
    same = [torch.equal(one, other.tokens) for one, other in zip(tokens, completions, strict=True)]
    yield Figure("share of answers that are the same, decoded alone", mean(map(float, same)))


def _one(policy: Policy, batch: Batch, cuts: Tensor, row: int) -> Tensor:
    only = torch.tensor([row], device=cuts.device)
    return surrogate_logprobs(policy, batch.take(only), cuts[only], 1.0)


def _warm_bench(size: Size, config: TrainConfig) -> Bench:
    """A run of the step, after a step of two short answers that has chosen, compiled and loaded the kernels."""
    bench = open_bench(config, size.shape)
    blocks = (config.rollout.gen_length or 1) // (config.rollout.block_length or 1)
    rollout = replace(config.rollout, sampler=f"steps:{2 * blocks}")
    objective = replace(config.objective, num_iterations=2)  # one alone scores nothing ahead
    few = replace(config, prompts_per_step=1, num_generations=2, rollout=rollout, objective=objective)
    for work in replace(bench, config=few).phases().values():
        work()
    return bench


def _described(config: TrainConfig) -> str:
    rollout, cache = config.rollout, config.rollout.cache
    return (
        f"{config.prompts_per_step} prompts x {config.num_generations}, {rollout.gen_length} tokens, "
        f"{rollout.sampler.partition(':')[2]} calls, {'no cache' if cache == 'none' else f'{cache} cache'}, "
        f"{config.objective.num_iterations} updates"
    )


def _standing(device: torch.device) -> int:
    """Bytes that stand on a GPU between two phases."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _planned(size: Size) -> dict[str, float]:
    """Bytes that `diffpo plan` says a phase of the step needs, CUDA's own context left out."""
    here = Gpu("this one", 80, 989, 67, 3350, host=size.device == "cpu")
    calls = float(size.step.rollout.sampler.partition(":")[2])
    lengths = [size.lengths[index % len(size.lengths)] for index in range(size.step.prompts_per_step)]
    cluster = Cluster(here, nfe=calls, prompt_length=round(mean(lengths)))
    planned = plan(size.step, Start(size.shape, FAMILIES["llada"], torch.bfloat16), cluster)
    found = {phase.name: phase.bytes - phase.parts.get("context", 0.0) for phase in planned.phases}
    return {
        "rollouts": found["rollouts"],
        "old log-probs": max(found["old log-probs"], found.get("reference log-probs", 0.0)),
        "updates": max(found["update"], found["optimiser"]),
    }
