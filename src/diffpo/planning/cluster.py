"""Runs with rollout workers before they run: a small discrete-event simulation of who waits for whom.

A worker decodes its share of a step's completions in slots: every call takes as long as its rows' arithmetic, or as
reading the weights, and rows leave after their own number of calls. Rollouts of step s begin when the policy of step
s - lag stands and the worker is free; the updates of step s when those of s - 1 are done and all shares are there.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean

from diffpo.config import TrainConfig
from diffpo.planning.plan import Plan, Start, make_model, plan
from diffpo.planning.steps import RlStep, expected_nfe, rl_step
from diffpo.planning.work import Cluster
from diffpo.processes.world import World
from diffpo.rollout.log import read_rollouts

NUM_STEPS, WARM = 60, 10
"""Steps that are simulated, and those of them, at the start, that do not count."""
LONG = 0.25
"""Idle share of both workers and trainers from which neither is what a step takes its time for."""
SPREAD = 0.4
"""Standard deviation over mean of the calls of a completion, where a rule leaves them open and no run says."""

Draw = Callable[[Random], int]
"""Calls of one completion."""


@dataclass(frozen=True)
class Split:
    """GPUs that make rollouts beside GPUs that train."""

    workers: int
    trainers: int
    lag: int
    seconds: float
    """A step, on average."""
    idle_workers: float
    """Share of the workers' time in which they wait."""
    idle_trainers: float
    fits: bool
    """Whether what trains has room on its GPUs."""
    together: float = math.nan
    """Seconds of a step where all GPUs make rollouts and then train."""

    @property
    def total(self) -> int:
        return self.workers + self.trainers

    @property
    def bound(self) -> str:
        """What a step takes its time for: who waits less; where both wait for long, it is for the last answers."""
        if min(self.idle_workers, self.idle_trainers) > LONG:
            return "slowest answers"
        return "rollouts" if self.idle_workers < self.idle_trainers else "updates"


def simulate(
    shares: Sequence[Sequence[float]], workers: int, update: float, lag: int, warm: int = 0
) -> tuple[float, float, float]:
    """Seconds a step, and the idle shares of workers and trainers, over the steps after the first `warm`.

    `shares` are seconds of the shares of a step's prompts, step by step, each of which goes to the worker that has
    least to do, of these to the one that began first (`diffpo.training.ray_workers`); updates take `update` seconds.
    """
    given: list[list[tuple[float, float]]] = [[] for _ in range(workers)]  # when each begins what it has, and ends it
    stands, busy = [0.0], 0.0  # when the policy after each step stands
    for step, seconds in enumerate(shares):
        begun = stands[max(0, step - lag)]
        given = [[span for span in mine if span[1] > begun] for mine in given]
        least = [(len(mine), mine[0][0] if mine else begun, worker) for worker, mine in enumerate(given)]
        heapq.heapify(least)
        made = stands[-1]
        for spent in seconds:
            count, since, worker = least[0]
            start = given[worker][-1][1] if count else begun
            given[worker].append((start, start + spent))
            made = max(made, start + spent)
            heapq.heapreplace(least, (count + 1, since, worker))
        stands.append(made + update)
        busy += sum(seconds) if step >= warm else 0.0
    steps = len(shares) - warm
    whole = stands[-1] - stands[warm]
    return whole / steps, max(0.0, 1 - busy / (whole * workers)), max(0.0, 1 - steps * update / whole)


def decode_seconds(calls: Sequence[int], slots: int, call_seconds: Callable[[int], float]) -> float:
    """Seconds of completions of so many calls each, in `slots` slots that are filled as they become free.

    A call of so many rows takes `call_seconds`.
    """
    ends, waiting = [], list(calls)[::-1]
    done, seconds = 0, 0.0  # calls made so far
    while ends or waiting:
        while waiting and len(ends) < slots:
            heapq.heappush(ends, done + waiting.pop())
        seconds += (ends[0] - done) * call_seconds(len(ends))
        done = ends[0]
        while ends and ends[0] == done:
            heapq.heappop(ends)
    return seconds


def split_of(config: TrainConfig, start: Start, cluster: Cluster, workers: int, draw: Draw) -> Split:
    """`workers` GPUs that make rollouts beside `cluster`, which trains."""
    lag, needed = config.rollout.lag, plan(config, start, cluster)
    spent = _simulated(config, needed, workers, lag, draw)
    return Split(workers, cluster.num_gpus, lag, *spent, needed.fits)


def _simulated(config: TrainConfig, needed: Plan, workers: int, lag: int, draw: Draw) -> tuple[float, float, float]:
    """What `simulate` says of `workers` GPUs that decode and updates as `needed` has them."""
    alone = replace(needed.cluster, num_gpus=workers, shards=False)
    (row, call), random = _call_seconds(rl_step(config, needed.model, alone)[0]), Random(0)
    shared = [len(World(rank, workers).share(config.prompts_per_step)) for rank in range(workers)]
    sizes, slots = [prompts * config.num_generations for prompts in shared if prompts], config.rollout.num_slots
    shares = [
        [decode_seconds([draw(random) for _ in range(n)], slots, lambda rows: max(call, row * rows)) for n in sizes]
        for _ in range(NUM_STEPS)
    ]
    update = sum(phase.seconds for phase in needed.phases if phase.name != "rollouts")
    return simulate(shares, workers, update, lag, WARM)


def _call_seconds(step: RlStep) -> tuple[float, float]:
    """Seconds of a call for each of its rows, and at least: arithmetic, and reading all weights."""
    rollouts = next(step.phases())
    work, reads = step.call_work(sharing=1), step.cluster.gpu.bandwidth * 1e9
    scored = (step.block_length + step.gen_length / step.nfe) / 2
    return work.forward(1, scored, step.block_length) / work.peak, rollouts.parts["weights"] / reads


def calls_of(config: TrainConfig, step: RlStep, run: str = "") -> tuple[Draw, str]:
    """What draws a completion's calls, and what that assumes: as measured in a run, by the rule alone, or assumed.

    ValueError if the run has kept no rollouts.
    """
    if run:
        path = Path(run, "rollouts.jsonl.gz")
        if not path.is_file() or not (found := [row["nfe"] for row in read_rollouts(path)]):
            raise ValueError(f"nfe_of = {run}: no rollouts there (log_rollouts keeps them in rollouts.jsonl.gz)")
        said = f"calls as the {len(found):,} completions of {run} took: mean {fmean(found):.3g}"
        return lambda random: random.choice(found), said
    if expected_nfe(config.rollout.sampler, step.gen_length, step.block_length)[1] and step.cluster.nfe is None:
        return lambda _: math.ceil(step.nfe), f"{step.nfe:g} calls for every completion"
    shape = SPREAD**-2

    def draw(random: Random) -> int:
        return min(step.gen_length, max(1, round(random.gammavariate(shape, step.nfe / shape))))

    return draw, f"calls of a completion vary by {SPREAD:.0%} around {step.nfe:g} (nfe_of takes a run's)"


def sweep(config: TrainConfig, start: Start, cluster: Cluster, draw: Draw, most: int) -> Iterator[Split]:
    """The fastest split of 2, 4, ... up to `most` GPUs that fits; those that train are a power of two."""
    for total in (2**power for power in range(1, most.bit_length())):
        counts = [2**power for power in range(total.bit_length() - 1)]
        found = [
            split_of(config, start, replace(cluster, num_gpus=trainers), total - trainers, draw) for trainers in counts
        ]
        yield min(found, key=lambda split: (not split.fits, split.seconds))


def splits_of(config: TrainConfig, start: Start, cluster: Cluster, most: int, run: str) -> tuple[list[Split], str]:
    """The split that the config asks for by `rollout.workers`, if it does, then a sweep up to `most` GPUs.

    And what is assumed of the calls.
    """
    step, _ = rl_step(config, make_model(config, start), cluster)
    draw, assumed = calls_of(config, step, run)
    workers = config.rollout.workers
    found = [split_of(config, start, cluster, workers, draw)] if workers else []
    found += sweep(config, start, cluster, draw, most)
    for place, split in enumerate(found):  # beside all GPUs that make rollouts and then train (`accelerate launch`)
        needed = plan(config, start, replace(cluster, num_gpus=split.total))
        together, *_ = _simulated(config, needed, split.total, 0, draw)
        found[place] = replace(split, together=together)
    return found, assumed
