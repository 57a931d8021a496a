"""Which masked positions of the active block a denoiser call commits: rules as values, and their arithmetic.

B rows, K positions of the active block. `candidates` marks the positions that are still masked; a rule returns a
subset of them, at least one where there is any. Rules look at predicted distributions, never at drawn tokens: only
then is the behaviour log-probability of a rollout exact. Ties go to the leftmost position.

A rule is a frozen dataclass of one number, the one behind the colon of `top_k:2`, and is called with what there is to
see. RULES names those that come with diffpo; any other is `PATH.py:CLASS:NUMBER` (`diffpo.rollout.rules`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def entropy_bound(
    entropy: Float[Tensor, "B K"], candidates: Bool[Tensor, "B K"], gamma: Float[Tensor, " B"]
) -> Bool[Tensor, "B K"]:
    """EB sampler (arXiv 2505.24857, Eq. 2): the largest prefix U by ascending entropy with sum_U H - max_U H <= gamma.

    Entropies in nats. Sorted by entropy the maximum is the last, so the bound is an exclusive cumulative sum.
    """
    ordered, order = entropy.masked_fill(~candidates, torch.inf).sort(dim=-1, stable=True)
    before = torch.cat([torch.zeros_like(ordered[:, :1]), ordered[:, :-1].cumsum(-1)], dim=-1)
    # the first position stands by itself: nothing precedes it, whatever gamma
    prefix = (before <= gamma[:, None]) & (ordered < torch.inf)
    return torch.zeros_like(candidates).scatter(-1, order, prefix)


def confidence(
    max_prob: Float[Tensor, "B K"], candidates: Bool[Tensor, "B K"], threshold: Float[Tensor, " B"]
) -> Bool[Tensor, "B K"]:
    """Every candidate whose largest probability reaches `threshold`, and the surest one in any case."""
    surest = top_k(max_prob, candidates, torch.ones_like(threshold, dtype=torch.int64))
    return candidates & ((max_prob >= threshold[:, None]) | surest)


def top_k(
    score: Float[Tensor, "B K"], candidates: Bool[Tensor, "B K"], count: Int64[Tensor, " B"]
) -> Bool[Tensor, "B K"]:
    """The `count` candidates of highest score, such as the largest probability (LLaDA's low-confidence remasking)."""
    order = score.masked_fill(~candidates, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
    rank = torch.arange(score.shape[-1], device=score.device)
    return torch.zeros_like(candidates).scatter(-1, order, rank < count[:, None]) & candidates


def steps_count(
    block_length: Int64[Tensor, " B"], block_steps: Int64[Tensor, " B"], call: Int64[Tensor, " B"]
) -> Int64[Tensor, " B"]:
    """Positions that `call` (0, 1, ... within the block) commits when `block_steps` calls share a block.

    LLaDA's rounding: the remainder goes to the first calls.
    """
    return (block_length // block_steps + (call < block_length % block_steps)).clamp_min(1)


# --- rules as values -----------------------------------------------------------------------------------------------

Look = Literal["margin", "lottery", "learned"]
"""What is made only for rules that look at it; all others are there in any case."""


class Seen(NamedTuple):
    """What a rule may look at. Distributions are those at the request's entropy_temperature."""

    candidates: Bool[Tensor, "B K"]
    entropy: Float[Tensor, "B K"]
    """Nats."""
    max_prob: Float[Tensor, "B K"]
    margin: Float[Tensor, "B K"]
    """The largest less the second largest probability."""
    lottery: Float[Tensor, "B K"]
    """Uniform numbers keyed by request, call and position."""
    learned: Bool[Tensor, "B K"]
    """What the policy's sampler head commits."""
    call: Int64[Tensor, " B"]
    """Calls made within the block before this one."""
    block_length: Int64[Tensor, " B"]
    """Positions of the active block but those that were given; of the prompt, which the first may hold, they count."""
    num_blocks: Int64[Tensor, " B"]
    """Of the canvas, wherever in a block it begins."""

    def rows(self, number: float, dtype: torch.dtype = torch.float32) -> Tensor:
        """A setting as a column, [B]; beyond 2^62 it is that, which both dtypes hold."""
        return torch.full_like(self.call, min(number, 2.0**62), dtype=dtype)


class Rule:
    """Chooses among the candidates of a call."""

    looks_at: ClassVar[frozenset[Look]] = frozenset()

    def __call__(self, seen: Seen) -> Bool[Tensor, "B K"]:
        """Those to commit."""
        raise NotImplementedError


@dataclass(frozen=True)
class EntropyBound(Rule):
    """`entropy_bound` at gamma nats."""

    gamma: float

    def __call__(self, seen: Seen) -> Tensor:
        return entropy_bound(seen.entropy, seen.candidates, seen.rows(self.gamma))


@dataclass(frozen=True)
class Learned(Rule):
    """What the policy's sampler head commits."""

    looks_at: ClassVar[frozenset[Look]] = frozenset(["learned"])

    def __call__(self, seen: Seen) -> Tensor:
        return seen.learned


@dataclass(frozen=True)
class Confidence(Rule):
    """All whose largest probability reaches a threshold."""

    threshold: float

    def __call__(self, seen: Seen) -> Tensor:
        return confidence(seen.max_prob, seen.candidates, seen.rows(self.threshold))


@dataclass(frozen=True)
class TopK(Rule):
    """The k of the largest probability."""

    count: float

    def __call__(self, seen: Seen) -> Tensor:
        return top_k(seen.max_prob, seen.candidates, seen.rows(self.count, torch.int64))


@dataclass(frozen=True)
class Margin(Rule):
    """The k at which the first choice is furthest ahead of the second (Dream's topk_margin)."""

    count: float
    looks_at: ClassVar[frozenset[Look]] = frozenset(["margin"])

    def __call__(self, seen: Seen) -> Tensor:
        return top_k(seen.margin, seen.candidates, seen.rows(self.count, torch.int64))


@dataclass(frozen=True)
class Steps(Rule):
    """So many of the largest probability that the canvas takes `count` calls (LLaDA's schedule)."""

    count: float

    def __call__(self, seen: Seen) -> Tensor:
        calls = (seen.rows(self.count, torch.int64) // seen.num_blocks).clamp_min(1)
        return top_k(seen.max_prob, seen.candidates, steps_count(seen.block_length, calls, seen.call))


@dataclass(frozen=True)
class Random(Rule):
    """k at random: those of the largest uniform numbers."""

    count: float
    looks_at: ClassVar[frozenset[Look]] = frozenset(["lottery"])

    def __call__(self, seen: Seen) -> Tensor:
        return top_k(seen.lottery, seen.candidates, seen.rows(self.count, torch.int64))


RULES: dict[str, Callable[[float], Rule]] = {
    "entropy_bound": EntropyBound,
    "confidence": Confidence,
    "top_k": TopK,
    "margin": Margin,
    "steps": Steps,
    "random": Random,
    "learned": lambda _: Learned(),
}
