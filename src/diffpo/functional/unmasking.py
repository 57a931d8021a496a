"""Which masked positions of the active block a denoiser call commits: four rules, vectorised, settings per row.

B rows, K positions of the active block. `candidates` marks the positions that are still masked; a rule returns a
subset of them, at least one where there is any. Rules look at predicted distributions, never at drawn tokens: only
then is the behaviour log-probability of a rollout exact. Ties go to the leftmost position.
"""

from __future__ import annotations

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


def random(
    uniforms: Float[Tensor, "B K"], candidates: Bool[Tensor, "B K"], count: Int64[Tensor, " B"]
) -> Bool[Tensor, "B K"]:
    """`count` candidates at random: those of the largest uniform numbers."""
    return top_k(uniforms, candidates, count)


def steps_count(
    block_length: Int64[Tensor, " B"], block_steps: Int64[Tensor, " B"], call: Int64[Tensor, " B"]
) -> Int64[Tensor, " B"]:
    """Positions that `call` (0, 1, ... within the block) commits when `block_steps` calls share a block.

    LLaDA's rounding: the remainder goes to the first calls.
    """
    return (block_length // block_steps + (call < block_length % block_steps)).clamp_min(1)
