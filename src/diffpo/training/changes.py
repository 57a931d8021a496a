"""What to change in a recipe, or in what it runs on, so that it fits: each suggestion is planned again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from diffpo.config import TrainConfig
from diffpo.training.gpus import GPUS
from diffpo.training.plan import Cluster, Plan, Start, plan


@dataclass(frozen=True)
class Change:
    """Something to change, and what the run then needs; where several are listed, each comes on top of those before."""

    what: str
    plan: Plan


Variant = tuple[str, TrainConfig, Cluster]


def _halves(value: int) -> Iterator[int]:
    while value > 1:
        value //= 2
        yield value


def _smaller_micro_batches(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    rows = -(-config.prompts_per_step * config.num_generations // cluster.num_gpus)
    for size in _halves(min(config.optim.micro_batch_size, rows)):
        yield (
            f"optim.micro_batch_size = {size}",
            replace(config, optim=replace(config.optim, micro_batch_size=size)),
            cluster,
        )


def _checkpointing(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    if not config.optim.gradient_checkpointing:
        optim = replace(config.optim, gradient_checkpointing=True)
        yield "optim.gradient_checkpointing = true", replace(config, optim=optim), cluster


def _fewer_slots(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    rows = -(-config.prompts_per_step // cluster.num_gpus) * config.num_generations
    for slots in _halves(min(config.rollout.num_slots, rows)):
        yield (
            f"rollout.num_slots = {slots}",
            replace(config, rollout=replace(config.rollout, num_slots=slots)),
            cluster,
        )


def _half_precision(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    if config.load.dtype != "bfloat16":
        yield "load.dtype = bfloat16", replace(config, load=replace(config.load, dtype="bfloat16")), cluster


def _adapters(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    if not config.lora.rank and not config.load.adapter and config.train != "sampler":
        yield "lora.rank = 128", replace(config, lora=replace(config.lora, rank=128)), cluster


def _four_bit(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    learns_little = config.lora.rank or config.load.adapter or config.train == "sampler"
    if learns_little and not config.load.four_bit and not cluster.shards:
        yield "load.four_bit = true", replace(config, load=replace(config.load, four_bit=True)), cluster


def _more_gpus(config: TrainConfig, cluster: Cluster) -> Iterator[Variant]:
    if config.train == "sampler" or config.load.four_bit:
        return  # neither is sharded
    for number in (2, 4, 8, 16, 32):
        if number > cluster.num_gpus or not cluster.shards:
            number = max(number, cluster.num_gpus)
            yield f"{number} GPUs, sharded (FSDP2)", config, replace(cluster, num_gpus=number, shards=True)


RULES: tuple[Callable[[TrainConfig, Cluster], Iterator[Variant]], ...] = (
    _smaller_micro_batches,
    _checkpointing,
    _fewer_slots,
    _half_precision,
    _adapters,
    _four_bit,
    _more_gpus,
)
"""What to try, in this order: first what changes no result, then what costs time, then what learns less, then money."""


def changes(first: Plan, start: Start) -> tuple[Change, ...]:
    """What to change so that a plan fits: one change if one is enough, else several on top of each other.

    Each was planned again. Empty if the plan fits; the last of several may not fit either.
    """
    if first.fits:
        return ()
    for rule in RULES:
        for what, config, cluster in rule(first.config, first.cluster):
            if (after := plan(config, start, cluster)).fits:
                return (Change(what, after),)
    now, taken = first, []
    for rule in RULES:
        best = None
        for what, config, cluster in rule(now.config, now.cluster):
            best = Change(what, plan(config, start, cluster))
            if best.plan.fits:
                break
        if best and (best.plan.fits or best.plan.peak.bytes < 0.99 * now.peak.bytes):
            taken.append(best)
            now = best.plan
        if now.fits:
            break
    return tuple(taken)


def roomy_gpu(needed: float) -> str | None:
    """Name of the smallest GPU of the table that has room for `needed` bytes."""
    large = [name for name, gpu in GPUS.items() if gpu.memory * 2**30 >= needed]
    return min(large, key=lambda name: GPUS[name].memory, default=None)
