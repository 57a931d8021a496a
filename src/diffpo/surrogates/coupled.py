"""coupled-GRPO's surrogate (DiffuCoder, arXiv 2506.20639): a token given random parts of its own completion.

A pair draws t ~ U(0.2, 0.8) and masks each position with probability t; its twin masks the others. So every token is
masked once a pair, and scored there. With lambda pairs and z_T, where the whole completion is masked:

    log pi^(o_i) = 1/(lambda + 1) [ log pi(o_i | c, z_T) + sum_pairs l_i ]
    l_i = 1/t log pi(o_i | c, z_t) where z_t masks i, 1/(1-t) log pi(o_i | c, z_{1-t}) where its twin does

At t = 1 the pair is z_T again, and the surrogate is the mean field. The latents know nothing of the rollout's order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffpo.config.checks import bound
from diffpo.functional.latents import Latents, masked_latents
from diffpo.functional.random import fold, uniform
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch

TIMES = 0.2, 0.8
"""Range of t: both latents of a pair keep something, and no weight exceeds 5."""


@dataclass(frozen=True)
class Coupled(Surrogate):
    """Pairs of complementary masks, and the empty canvas, which the rows of a prompt share."""

    is_likelihood = False
    num_pairs: int = 1

    def __post_init__(self) -> None:
        bound(self, "", "num_pairs", ">=", 1)

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        masks, weights = coupled_masks(fold(keys, 1), self.num_pairs, batch.tokens.shape[1])
        whole = torch.ones_like(masks[:, :1])
        masks, weights = torch.cat([whole, masks], 1), torch.cat([whole / (self.num_pairs + 1), weights], 1)
        return masked_latents(batch, masks, weights, mask_id, shares_first=True)

    def cost(self, nfe: float) -> Cost:
        return Cost(2 * self.num_pairs, 0.5, shared=1)


def coupled_masks(
    keys: Int64[Tensor, " B"], num_pairs: int, length: int, times: tuple[float, float] = TIMES
) -> tuple[Bool[Tensor, "B M L"], Float[Tensor, "B M L"]]:
    """Masks of the M = 2 lambda latents of a row, pair by pair, and the weight of each token's log-prob there.

    A weight is 0 where the token is not masked. z_T is not among them: its weight is 1 / (lambda + 1) everywhere.
    """
    pairs = fold(keys[:, None], torch.arange(num_pairs, device=keys.device))
    low, high = times
    t = (low + (high - low) * uniform(fold(pairs, 0)))[:, :, None]
    lottery = uniform(fold(pairs[:, :, None], 1, torch.arange(length, device=keys.device)))
    masked = lottery < t
    masks = torch.stack([masked, ~masked], 2)
    weights = torch.stack([masked / t, ~masked / (1 - t).clamp_min(torch.finfo(t.dtype).tiny)], 2) / (num_pairs + 1)
    return masks.flatten(1, 2), weights.flatten(1, 2)
