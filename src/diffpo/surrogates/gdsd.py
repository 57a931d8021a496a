"""GDSD's surrogate (arXiv 2605.29398): a completion's log-likelihood from a pair of complementary masks, unweighted.

    f = 1/2 [ sum_{i masked in z} log pi(o_i | c, z)  +  sum_{others} log pi(o_i | c, z~) ]

z masks l ~ U{0..L} positions at random, z~ the others, as ESPO's pairs (`surrogates.elbo`) without their factors
(L + 1)/l: f stands for the likelihood in a regression, and need not be a bound. Several pairs have the mean of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffpo.config.checks import bound
from diffpo.functional.latents import Latents, masked_latents
from diffpo.functional.random import fold
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.surrogates.elbo import elbo_masks
from diffpo.types import Batch


@dataclass(frozen=True)
class Gdsd(Surrogate):
    """Pairs of complementary masks, each token weighed alike."""

    num_pairs: int = 1

    def __post_init__(self) -> None:
        bound(self, "", "num_pairs", ">=", 1)

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        masks, _ = elbo_masks(fold(keys, 1), self.num_pairs, batch.gen_lengths, batch.tokens.shape[1])
        return masked_latents(batch, masks, masks / (2 * self.num_pairs), mask_id)

    def cost(self, nfe: float) -> Cost:
        return Cost(2 * self.num_pairs, 0.5)
