"""RLDF's surrogate (arXiv 2605.25638): K calls drawn by surprisal, and all that was still masked scored from each.

    P(t) ~ exp( -1/n_t sum_{i: s_i = t} b_i / temperature ),    without replacement
    J = 1/K sum_{calls t drawn} 1/|S_t| sum_{i in S_t} f( log pi(o_i | c, z_{t-1}) )
    S_t = {i: s_i = t}  and  {i: s_i > t, pi_old(o_i | c, z_{t-1}) >= floor}

Each call is a line of its own: a token has a log-probability, and a ratio, for each that it is scored from. What is
unlikely from afar is left out, by the policy before the first update, so that J is of the same tokens in all passes.
Where a row has fewer than K calls K is their number; the published code draws some of them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.config.checks import bound, check
from diffpo.functional.latents import Latents, call_latents, call_masks
from diffpo.functional.random import fold
from diffpo.functional.surrogate import best_calls, mean_by_call
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class Rldf(Surrogate):
    """K calls of each row, by surprisal."""

    num_calls: int = 4
    """K."""
    temperature: float = 1.0
    """0: the calls of highest surprisal; inf: drawn uniformly."""
    floor: float = 0.6
    """Probability below which a token that the call did not commit is left out; 0 for none."""

    def __post_init__(self) -> None:
        bound(self, "", "num_calls", ">=", 1)
        bound(self, "", "temperature", ">=", 0)
        check(0 <= self.floor < 1, f"floor must lie in [0, 1), got {self.floor}")

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        return call_latents(batch, self.calls(batch, keys), mask_id, forward=True)

    def calls(self, batch: Batch, keys: Tensor) -> Tensor:
        """[B, K] of those that committed a token of the loss; what a row lacks is no call."""
        scores = mean_by_call(-batch.behaviour_logprobs, batch.committed_at, batch.loss_mask)
        found = best_calls(scores, self.num_calls, fold(keys, 0), self.temperature)
        missing = found.new_full((len(found), self.num_calls - found.shape[1]), scores.shape[1] + 1)
        return torch.cat([found, missing], -1)

    def counts(self, batch: Batch, keys: Tensor, old_logprobs: Tensor | None) -> Tensor:
        """|o| / (K |S_t|) in S_t: with 1 / |o| a token the mean over calls of the mean over S_t."""
        masked, own = call_masks(batch.committed_at, self.calls(batch, keys))
        if self.floor:
            assert old_logprobs is not None
            masked = masked & (old_logprobs.view_as(masked) >= math.log(self.floor)) | own
        scored = masked & batch.loss_mask[:, None]
        num_tokens = scored.sum(-1, keepdim=True) * scored.any(-1).sum(-1)[:, None, None]
        counts = scored * batch.loss_mask.sum(-1)[:, None, None] / num_tokens.clamp_min(1)
        return counts.flatten(0, 1)

    @property
    def num_lines(self) -> int:
        return self.num_calls

    @property
    def needs_old(self) -> bool:
        return self.floor > 0

    def cost(self, nfe: float) -> Cost:
        return Cost(min(self.num_calls, nfe), (1 + 1 / nfe) / 2)
