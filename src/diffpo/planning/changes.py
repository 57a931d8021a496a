"""What to change in a recipe, or in what it runs on, so that it fits: each suggestion is planned again."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
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


def edits_by_rule(config: Config, cluster: Cluster, start: Start | None = None) -> list[list[Edit]]:
    """What to try, a list a rule, mildest first: what changes no result, costs time, learns less, costs money.

    The edits of a rule are from the mildest to the strongest. None is one that a run of `config` from `start` refuses;
    of a start that is not known 4-bit weights might be.
    """
    frozen = isinstance(config, TrainConfig) and config.train == "sampler"  # the denoiser stays as it is
    adapted, slots, merges = bool(config.lora.rank or config.load.adapter), 0, False
    carries = bool(start and start.adapter)
    if isinstance(config, TrainConfig):
        merges = config.rollout.merge_adapters
        rows = -(-config.prompts_per_step // cluster.num_gpus) * config.num_generations
        slots = min(config.rollout.num_slots, rows)
    packs = start is not None and not start.shape.experts and not merges and not cluster.shards
    four_bit = (adapted or frozen) and packs and not config.load.four_bit
    counts = [cluster.num_gpus] if cluster.num_gpus > 1 and not cluster.shards else []
    counts += [number for number in (2, 4, 8, 16, 32) if number > cluster.num_gpus]
    return [
        [] if frozen else _halves("optim.micro_batch_tokens", config.optim.micro_batch_tokens),
        [] if frozen or config.optim.gradient_checkpointing else [Edit({"optim.gradient_checkpointing": True})],
        _halves("rollout.num_slots", slots),
        [Edit({"load.dtype": "bfloat16"})] if config.model and config.load.dtype != "bfloat16" else [],
        [Edit({"lora.rank": 128})] if config.model and not (adapted or carries or frozen) else [],
        [Edit({"load.four_bit": True})] if four_bit else [],
        [] if frozen or config.load.four_bit else [Edit(num_gpus=number) for number in counts],  # neither is sharded
    ]


def _halves(name: str, value: int) -> list[Edit]:
    return [Edit({name: value >> power}) for power in range(1, value.bit_length())]


def changes(first: Plan, start: Start) -> tuple[Change, ...]:
    """What to change so that a plan fits: one thing if that is enough, else several together, and nothing that a milder
    rule makes needless. Empty if the plan fits; the last of several may not fit either.
    """
    if first.fits:
        return ()
    together: tuple[Change, ...] = ()
    for rule, edits in enumerate(edits_by_rule(first.config, first.cluster, start)):
        if found := _mildest(edits, first, start, 0):
            return (Change(str(found[0]), found[1]),)
        together = _together(first, start, range(rule + 1))
        if together and together[-1].plan.fits:
            return together
    return together


def _excess(needed: Plan) -> float:
    """Bytes by which the phases overflow, all together: a rule may help one phase while another needs as much."""
    room = needed.cluster.gpu.memory * 2**30
    return sum(max(0.0, phase.bytes - room) for phase in needed.phases)


def _mildest(edits: Sequence[Edit], before: Plan, start: Start, most: float) -> tuple[Edit, Plan] | None:
    """The first edit after which no more than `most` bytes overflow, and its plan; each helps more than those before.

    Few are planned: a plan takes a moment.
    """
    at = bisect_left(edits, -most, key=lambda edit: -_excess(edit.plan(before, start)))
    return (edits[at], edits[at].plan(before, start)) if at < len(edits) else None


def _together(first: Plan, start: Start, rules: Iterable[int]) -> tuple[Change, ...]:
    """Edits by several rules, each no stronger than it has to be."""
    now, taken = first, dict[int, Edit]()
    for rule in rules:
        edits = edits_by_rule(now.config, now.cluster, start)[rule]
        least = _excess(edits[-1].plan(now, start)) if edits else _excess(now)
        if least < 0.99 * _excess(now) and (found := _mildest(edits, now, start, least)):
            taken[rule], now = found
    steps = _in_turn(first, start, taken.values())
    for rule in list(taken) if now.fits else []:
        fewer = {other: edit for other, edit in taken.items() if other != rule}
        if (shorter := _in_turn(first, start, fewer.values())) and shorter[-1].plan.fits:
            steps, taken = shorter, fewer
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
    firsts = [str(edits[0]) for edits in edits_by_rule(config, Cluster(GPUS["h100"])) if edits]
    return f"change {', then '.join(firsts[:2])}, and resume; diffpo plan says what else there is"
