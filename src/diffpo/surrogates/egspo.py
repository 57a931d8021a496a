"""EGSPO's surrogate (arXiv 2603.12554): the exact log-probabilities of the K calls that were most uncertain.

    J = 1/K sum_{calls t chosen} min(rho_t A, clip(rho_t, 1 - eps, 1 + eps) A)
    rho_t = exp( 1/n_t sum_{i: s_i = t} [log pi(o_i | c, z_{t-1}) - log pi_old(o_i | c, z_{t-1})] )

A call's entropy is the mean of its n_t tokens' when they were drawn. `temperature` 0 takes the K highest; above, calls
are drawn without replacement with probabilities exp(H_t / temperature). Either way J leans to what was uncertain. The
ratio of a call is `clipped:0.5,ratio_level=call`. EGSPO's stepwise advantages are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffpo.config.checks import bound
from diffpo.functional.latents import Latents, call_latents, call_masks
from diffpo.functional.random import fold
from diffpo.functional.surrogate import best_calls, count_by_call, mean_by_call
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class Egspo(Surrogate):
    """K calls of each row, by entropy."""

    num_calls: int = 8
    """K."""
    temperature: float = 0.0
    """0: the calls of highest entropy; else they are drawn by it, inf: uniformly."""

    def __post_init__(self) -> None:
        bound(self, "", "num_calls", ">=", 1)
        bound(self, "", "temperature", ">=", 0)

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        return call_latents(batch, self.calls(batch, keys), mask_id)

    def calls(self, batch: Batch, keys: Tensor) -> Tensor:
        """[B, K] of those that committed a token of the loss; what a row lacks is no call."""
        scores = mean_by_call(batch.entropies, batch.committed_at, batch.loss_mask)
        return best_calls(scores, self.num_calls, fold(keys, 0), self.temperature)

    def counts(self, batch: Batch, keys: Tensor, old_logprobs: Tensor | None) -> Tensor:
        """|o| / (K n_t): with 1 / |o| a token the mean over calls of the mean over their tokens."""
        chosen = call_masks(batch.committed_at, self.calls(batch, keys))[1] & batch.loss_mask[:, None]
        num_calls = chosen.any(-1).sum(-1, keepdim=True)
        num_tokens = num_calls * count_by_call(batch.committed_at, batch.loss_mask)
        return chosen.any(1) * batch.loss_mask.sum(-1, keepdim=True) / num_tokens.clamp_min(1)

    def cost(self, nfe: float) -> Cost:
        return Cost(min(self.num_calls, nfe), 1 / nfe)
