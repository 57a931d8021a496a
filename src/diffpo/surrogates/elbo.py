"""ESPO's surrogate (arXiv 2512.03759): the evidence lower bound of a completion, from pairs of complementary masks.

Of the L positions that were not given mask l ~ U{0..L} at random; the twin masks the other L - l. With K pairs,

    ELBO = 1/(2K) sum_pairs [ (L + 1)/l      sum_{masked}  log pi(o_i | c, z_l)
                            + (L + 1)/(L-l)  sum_{others}  log pi(o_i | c, z_{L-l}) ]

Its mean over l and masks is the bound of any-order models, sum_l E 1/l sum_{masked} log pi(o_i | c, z_l), which is
log pi(o | c) itself where the predictions are conditionals of one distribution. One token's share of the sum stands for
its log-probability; ESPO exponentiates the whole, over the length (`ratio_level=sequence` of the clipped loss). Its
sums go over the whole canvas; here, as in every loss, over what stands up to the first EOS.
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


@dataclass(frozen=True)
class Elbo(Surrogate):
    """Pairs of complementary masks over the whole canvas, whatever the loss sees."""

    is_likelihood = False
    num_pairs: int = 1

    def __post_init__(self) -> None:
        bound(self, "", "num_pairs", ">=", 1)

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        masks, weights = elbo_masks(fold(keys, 1), self.num_pairs, batch.written)
        return masked_latents(batch, masks, weights, mask_id)

    def cost(self, nfe: float) -> Cost:
        return Cost(2 * self.num_pairs, 0.5)


def elbo_masks(
    keys: Int64[Tensor, " B"], num_pairs: int, inside: Bool[Tensor, "B L"]
) -> tuple[Bool[Tensor, "B M L"], Float[Tensor, "B M L"]]:
    """Masks of the M = 2 K latents of a row, pair by pair, and the weight of each token's log-prob there.

    L are the positions `inside`; the others are in no mask. A weight is 0 where the token is not masked.
    """
    pairs = fold(keys[:, None], torch.arange(num_pairs, device=keys.device))
    lengths, inside = inside.sum(-1), inside[:, None]
    count = (uniform(fold(pairs, 0)) * (lengths[:, None] + 1)).long().minimum(lengths[:, None])[:, :, None]
    lottery = uniform(fold(pairs[:, :, None], 1, torch.arange(inside.shape[-1], device=keys.device)))
    ranks = lottery.masked_fill(~inside, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    masked, others = inside & (ranks < count), inside & (ranks >= count)
    total = lengths[:, None, None]
    weights = [part * (total + 1) / size.clamp_min(1) for part, size in ((masked, count), (others, total - count))]
    masks = torch.stack([masked, others], 2)
    return masks.flatten(1, 2), torch.stack(weights, 2).flatten(1, 2) / (2 * num_pairs)
