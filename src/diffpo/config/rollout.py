"""How completions are decoded: the sampler's rule, the canvas, the heads that learn to sample."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

from diffpo.config.checks import bound, bound_temperature, check, check_kinds, suggest
from diffpo.config.idle import Idle, Knobs, refuse_idle

SAMPLER_RULES = {
    "entropy_bound": "gamma in nats, >= 0 and finite",
    "confidence": "probability in [0, 1]",
    "top_k": "positions a call, an integer >= 1",
    "margin": "positions a call, an integer >= 1",
    "steps": "calls a canvas, an integer >= 1",
    "random": "positions a call, an integer >= 1",
}


def parse_sampler(spec: str, where: str = "sampler") -> tuple[str, float]:
    """Split "rule:number" into (rule, number); "learned" has none, an own rule is "PATH.py:CLASS".

    ValueError names `where` and what is allowed.
    """
    if spec == "learned":
        return spec, 0.0
    own = ".py:" in spec
    rule, _, number = spec.rpartition(":") if own else spec.partition(":")
    if not own and rule not in SAMPLER_RULES:
        known = suggest(rule, [*SAMPLER_RULES, "learned"])
        raise ValueError(f"{where} {spec!r}: unknown rule{known}; your own: PATH.py:CLASS:NUMBER")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if own:
        check(math.isfinite(value), f"{where} {spec!r}: a rule has one number: write PATH.py:CLASS:NUMBER")
        return rule, value
    whole = rule in ("top_k", "margin", "steps", "random")
    if not whole <= value < math.inf or (whole and value % 1) or (rule == "confidence" and value > 1):
        raise ValueError(f"{where} {spec!r}: write {rule}:NUMBER, where NUMBER is {SAMPLER_RULES[rule]}")
    return rule, value


HOLE = re.compile(r"\{(\d{1,9})\}")
"""Where a canvas with text on it leaves so many tokens to write."""


def parse_canvas(text: str, where: str = "canvas") -> list[str | int]:
    """Texts, and between them how many tokens there are to write: "Name: {6}, age: {3}" is ["Name: ", 6, ", age: ", 3].

    ValueError names `where`, if nothing is to be written.
    """
    parts = [int(part) if index % 2 else part for index, part in enumerate(HOLE.split(text))]
    check(any(part for part in parts[1::2]), f"{where} {text!r}: write {{N}} where there are N tokens to be written")
    return [part for part in parts if part]


def canvas_size(text: str, characters: int = 1) -> int:
    """About how many tokens a canvas has whose texts have so many characters a token; 0 of none."""
    parts = parse_canvas(text) if text else []
    return sum(part if isinstance(part, int) else -(-len(part) // characters) for part in parts)


@dataclass(frozen=True)
class RolloutConfig(Knobs):
    """How completions are decoded."""

    sampler: str = "learned"
    """learned | entropy_bound:GAMMA | confidence:P | top_k:K | margin:K | steps:S | random:K | PATH.py:CLASS:NUMBER"""
    temperature: float = 1.0  # temperature of the draws; 0 is greedy
    entropy_temperature: float = 1.0
    """Temperature of the distribution whose entropy and confidence the sampler looks at."""
    gen_length: int | None = None  # canvas length in tokens. None: the task's own
    canvas: str = ""
    """What stands on the canvas from the start, {N} where N tokens are to be written: "Name: {6}, age: {3}". Empty:
    gen_length to write."""
    block_length: int | None = None
    """Length of the blocks that are decoded left to right. None: those of the model's attention, or a single one."""
    num_slots: int = 512  # rows decoded at once; finished rows leave and waiting ones take their place
    cache: Literal["auto", "none", "exact", "prefix", "dual"] = "auto"
    """Keys and values that are kept. Where attention is block-causal: exact, those of finished blocks. Where it is not:
    approximate, of what stands before the active block (prefix), or after it too (dual). auto: exact, or none."""
    cache_refresh: int = 0  # calls between refreshes of the cache within a block; 0: only at the start of each block
    merge_adapters: bool = False
    """Decode with adapters merged into copies of the weights: faster; importance weights correct for the rounding."""
    chat_template: bool = True  # put prompts into the tokenizer's chat template, where it has one

    def __post_init__(self) -> None:
        check_kinds(self, "rollout.")
        parse_sampler(self.sampler, "rollout.sampler")
        bound_temperature(self, "rollout.", "temperature")
        bound_temperature(self, "rollout.", "entropy_temperature", greedy=False)
        bound(self, "rollout.", "gen_length block_length num_slots", ">=", 1)
        bound(self, "rollout.", "cache_refresh", ">=", 0)
        if self.canvas:
            parse_canvas(self.canvas, "rollout.canvas")
        refuse_idle(self, "rollout.")

    def idle(self) -> Idle:
        exact = self.cache not in ("prefix", "dual")
        return {
            "cache_refresh": exact and "without an approximate rollout.cache (prefix or dual)",
            "gen_length": bool(self.canvas) and "beside rollout.canvas, which has a length of its own",
            "canvas": bool(self.canvas and self.gen_length) and "beside rollout.gen_length",  # whichever is said counts
        }

    def sized(self, gen_length: int) -> Self:
        """With this canvas length where no setting says another."""
        return self if self.gen_length or self.canvas else replace(self, gen_length=gen_length)


@dataclass(frozen=True)
class CollectConfig(RolloutConfig):
    """How a run makes its rollouts: how they are decoded, by a policy of which age, and where."""

    lag: int = 0
    """k: rollouts of step s are made by the policy after step s - k, while it trains on earlier ones; 0: on-policy."""
    hints: float = 0.0
    """Largest share of a solution that is given where no completion of a prompt is right (IGPO: 0.6); 0: none."""
    workers: int = 0  # processes that make rollouts, on Ray (docs/distributed.md); 0: none beside the run's own
    gpus_per_worker: float | None = None  # also a share of one. None: 1 where the run itself is on GPUs, else 0
    address: str = ""  # the Ray cluster to join, such as auto or HOST:6379. Empty: Ray is started on this machine
    worker_timeout: float = 1800.0  # seconds without an answer after which a worker counts as hung and is replaced

    def __post_init__(self) -> None:
        super().__post_init__()
        bound(self, "rollout.", "lag workers gpus_per_worker", ">=", 0)
        check(0 <= self.hints < 1, f"rollout.hints must lie in [0, 1), got {self.hints}")
        bound(self, "rollout.", "worker_timeout", ">", 0)

    def idle(self) -> Idle:
        return {
            **super().idle(),
            "hints": bool(self.canvas) and "beside rollout.canvas, which gives every answer its form",
            "gpus_per_worker address worker_timeout": not self.workers and "without rollout.workers",
        }

    @classmethod
    def of(cls, rollout: RolloutConfig) -> CollectConfig:
        """The settings of decoding, the defaults of the rest."""
        return rollout if isinstance(rollout, cls) else cls(**vars(rollout))

    @property
    def decoding(self) -> RolloutConfig:
        """How they are decoded, which is what a policy is known by; the rest is the run's own."""
        return RolloutConfig(**{field.name: getattr(self, field.name) for field in fields(RolloutConfig)})


@dataclass(frozen=True)
class ThresholdConfig:
    """The adaptive sampler: gamma = gamma_max * sigmoid(f(prompt) + sigma * noise)."""

    network: str = ""
    """What maps features to f: linear, or a diffpo.ThresholdHead of your own, PATH.py:CLASS (docs/extend.md)."""
    level: Literal["prompt", "state"] = "prompt"
    """What has a threshold: a prompt has one for all its calls, or every state of the canvas has its own (a call)."""
    gamma_max: float = 3.0  # largest threshold, nats
    gamma_init: float = 0.36
    """Threshold at the start, nats; start low: few tokens a call until the model has earned more."""
    sigma: float = 0.7  # standard deviation of the exploration noise
    bound: float = 4.0  # |f| stays below this, so that gamma cannot saturate
    learning_rate: float = 5e-3  # learning rate of the head, in units that suit a model of any width
    delay_steps: int = 5  # steps before the head trains; its feature statistics are gathered meanwhile
    epsilon: float = 0.2  # clip range of the head's ratio
    max_log_ratio: float = 1.0
    """Log-ratio up to which the head's ratio grows exponentially; beyond, along its tangent."""

    def __post_init__(self) -> None:
        check_kinds(self, "threshold.")
        bound(self, "threshold.", "gamma_max sigma bound learning_rate", ">", 0, finite=True)
        bound(self, "threshold.", "epsilon max_log_ratio", ">", 0)
        bound(self, "threshold.", "delay_steps", ">=", 0)
        inside = 0 < self.gamma_init < self.gamma_max
        check(inside, f"threshold.gamma_init must lie between 0 and gamma_max, got {self.gamma_init}")


@dataclass(frozen=True)
class BernoulliConfig:
    """The sampler of arXiv 2512.09106: every masked position of a block has a chance of being committed by a call."""

    network: str = ""
    """What maps features to chances: a transformer block, or a diffpo.BernoulliHead of your own, PATH.py:CLASS."""
    width: int = 128  # of its transformer block, which has 2 heads
    chance_init: float = 0.12  # chance of every position at the start
    learning_rate: float = 1e-3  # learning rate of the head
    delay_steps: int = 0  # steps before the head trains
    epsilon: float = 0.5  # clip range of a call's ratio
    max_log_ratio: float = 1.0
    """Log-ratio of a call up to which its ratio grows exponentially; beyond, along its tangent."""

    def __post_init__(self) -> None:
        check_kinds(self, "bernoulli.")
        bound(self, "bernoulli.", "learning_rate", ">", 0, finite=True)
        bound(self, "bernoulli.", "epsilon max_log_ratio", ">", 0)
        bound(self, "bernoulli.", "delay_steps", ">=", 0)
        inside = 0 < self.chance_init < 1
        check(inside, f"bernoulli.chance_init must lie between 0 and 1, got {self.chance_init}")
        check(self.width > 0 and self.width % 4 == 0, f"bernoulli.width must be a multiple of 4, got {self.width}")


HeadConfig = ThresholdConfig | BernoulliConfig
"""Settings of a sampler head, of whatever kind."""
LEARNING = ("learning_rate", "delay_steps", "epsilon", "max_log_ratio")
"""Settings of how a head learns, which are each run's; the others a head keeps for life."""
