"""GDSD's surrogate (arXiv 2605.29398): a completion's log-likelihood from a pair of complementary masks, unweighted.

    f = 1/2 [ sum_{i masked in z} log pi(o_i | c, z)  +  sum_{others} log pi(o_i | c, z~) ]

z masks l ~ U{0..L} positions at random, z~ the others, as ESPO's pairs (`surrogates.elbo`) without their factors
(L + 1)/l: f stands for the likelihood in a regression, and need not be a bound. Several pairs have the mean of theirs,
where the published loss adds up their squares. Tokens after the first EOS are in no sum here.

`centred` is token-level logit centralisation (TLC, its eq. 8), which keeps those factors: instead of log pi(o_i | .)

    log pi(o_i | .) - 1/V sum_v log pi(v | .),

the token's logit less the mean of all, which no normalisation is in.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffpo.functional.latents import Latents, masked_latents
from diffpo.functional.random import fold
from diffpo.surrogates.elbo import Elbo, elbo_masks
from diffpo.types import Batch


@dataclass(frozen=True)
class Gdsd(Elbo):
    """Pairs of complementary masks, each token weighed alike."""

    centred: bool = False
    """Centred logits, each weighed by its mask as in the ELBO."""

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        masks, weights = elbo_masks(fold(keys, 1), self.num_pairs, batch.written)
        weights = weights if self.centred else masks / (2 * self.num_pairs)
        return masked_latents(batch, masks, weights, mask_id, centred=self.centred)
