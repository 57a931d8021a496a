"""What to change in a recipe, or in what it runs on, so that it fits: each suggestion is planned again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffpo.config import SftConfig, TrainConfig
from diffpo.planning.gpus import GPUS
from diffpo.planning.plan import Cluster, Plan, Start, plan

Config = SftConfig | TrainConfig


@dataclass(frozen=True)
class Change:
    """Something to change, and what the run then needs; where several are listed, each comes on top of those before."""

    what: str
    plan: Plan


@dataclass(frozen=True)
class Edit:
    """A new value of a knob, or more GPUs that share what learns."""

    knobs: Mapping[str, Any] = field(default_factory=dict)
    num_gpus: int = 0

    def __str__(self) -> str:
        knobs = [f"{name} = {str(value).lower()}" for name, value in self.knobs.items()]
        return ", ".join([*knobs, *([f"{self.num_gpus} GPUs, sharded (FSDP2)"] if self.num_gpus else [])])

    def plan(self, before: Plan, start: Start) -> Plan:
        """`before` with the edit, planned again."""
        config, cluster = before.config, before.cluster
        for name, value in self.knobs.items():
            section, _, key = name.partition(".")
            config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
        if self.num_gpus:
            cluster = replace(cluster, num_gpus=self.num_gpus, shards=True)
        return plan(config, start, cluster)


def _halves(name: str, value: int) -> Iterator[Edit]:
    while value > 1:
        value //= 2
        yield Edit({name: value})


def _frozen(config: Config) -> bool:
    """Whether the denoiser stays as it is."""
    return isinstance(config, TrainConfig) and config.train == "sampler"


def _smaller_micro_batches(config: Config, cluster: Cluster) -> Iterator[Edit]:
    if not _frozen(config):
        yield from _halves("optim.micro_batch_tokens", config.optim.micro_batch_tokens)


def _checkpointing(config: Config, cluster: Cluster) -> Iterator[Edit]:
    if not config.optim.gradient_checkpointing and not _frozen(config):
        yield Edit({"optim.gradient_checkpointing": True})


def _fewer_slots(config: Config, cluster: Cluster) -> Iterator[Edit]:
    if isinstance(config, TrainConfig):
        rows = -(-config.prompts_per_step // cluster.num_gpus) * config.num_generations
        yield from _halves("rollout.num_slots", min(config.rollout.num_slots, rows))


def _half_precision(config: Config, cluster: Cluster) -> Iterator[Edit]:
    if config.model and config.load.dtype != "bfloat16":
        yield Edit({"load.dtype": "bfloat16"})


def _adapters(config: Config, cluster: Cluster) -> Iterator[Edit]:
    if config.model and not (config.lora.rank or config.load.adapter or _frozen(config)):
        yield Edit({"lora.rank": 128})


def _four_bit(config: Config, cluster: Cluster) -> Iterator[Edit]:
    frozen = config.lora.rank or config.load.adapter or _frozen(config)
    if frozen and not config.load.four_bit and not cluster.shards:
        yield Edit({"load.four_bit": True})


def _more_gpus(config: Config, cluster: Cluster) -> Iterator[Edit]:
    if not _frozen(config) and not config.load.four_bit:  # neither is sharded
        if cluster.num_gpus > 1 and not cluster.shards:
            yield Edit(num_gpus=cluster.num_gpus)
        yield from (Edit(num_gpus=number) for number in (2, 4, 8, 16, 32) if number > cluster.num_gpus)


ChangeRule = Callable[[Config, Cluster], Iterator[Edit]]
RULES: tuple[ChangeRule, ...] = (
    _smaller_micro_batches,
    _checkpointing,
    _fewer_slots,
    _half_precision,
    _adapters,
    _four_bit,
    _more_gpus,
)
"""What to try, mildest first: what changes no result, what costs time, what learns less, what costs money."""


def changes(first: Plan, start: Start) -> tuple[Change, ...]:
    """What to change so that a plan fits: one thing if that is enough, else several together, and nothing that a milder
    rule makes needless. Empty if the plan fits; the last of several may not fit either.
    """
    if first.fits:
        return ()
    together: tuple[Change, ...] = ()
    for count, rule in enumerate(RULES, 1):
        if found := _mildest(rule(first.config, first.cluster), first, start, 0):
            return (Change(str(found[0]), found[1]),)
        together = _together(first, start, RULES[:count])
        if together and together[-1].plan.fits:
            return together
    return together


def _excess(needed: Plan) -> float:
    """Bytes by which the phases overflow, all together: a rule may help one phase while another needs as much."""
    room = needed.cluster.gpu.memory * 2**30
    return sum(max(0.0, phase.bytes - room) for phase in needed.phases)


def _mildest(edits: Iterable[Edit], before: Plan, start: Start, most: float) -> tuple[Edit, Plan] | None:
    """The first edit after which no more than `most` bytes overflow, and its plan; each helps more than those before.

    Few are planned: a plan takes a moment.
    """
    edits = list(edits)
    at = bisect_left(edits, -most, key=lambda edit: -_excess(edit.plan(before, start)))
    return (edits[at], edits[at].plan(before, start)) if at < len(edits) else None


def _together(first: Plan, start: Start, rules: Sequence[ChangeRule]) -> tuple[Change, ...]:
    """Edits by several rules, each no stronger than it has to be."""
    now, taken = first, dict[ChangeRule, Edit]()
    for rule in rules:
        edits = list(rule(now.config, now.cluster))
        least = _excess(edits[-1].plan(now, start)) if edits else _excess(now)
        if least < 0.99 * _excess(now) and (found := _mildest(edits, now, start, least)):
            taken[rule], now = found
    steps = _in_turn(first, start, taken.values())
    for rule in list(taken) if now.fits else []:
        fewer = [edit for other, edit in taken.items() if other is not rule]
        if (shorter := _in_turn(first, start, fewer)) and shorter[-1].plan.fits:
            steps, taken = shorter, {other: edit for other, edit in taken.items() if other is not rule}
    return steps


def _in_turn(first: Plan, start: Start, edits: Iterable[Edit]) -> tuple[Change, ...]:
    steps = []
    for edit in edits:
        first = edit.plan(first, start)
        steps.append(Change(str(edit), first))
    return tuple(steps)


def roomy_gpu(needed: float) -> str | None:
    """Name of the smallest GPU of the table that has room for `needed` bytes."""
    large = [name for name, gpu in GPUS.items() if gpu.memory * 2**30 >= needed]
    return min(large, key=lambda name: GPUS[name].memory, default=None)


def advise(config: Config) -> str:
    """What a run that met the end of the memory can change first: what `diffpo plan` would try, mildest first."""
    firsts = (next(rule(config, Cluster(GPUS["h100"])), None) for rule in RULES)
    edits = [str(edit) for edit in firsts if edit]
    return f"change {', then '.join(edits[:2])}, and resume; diffpo plan says what else there is"
