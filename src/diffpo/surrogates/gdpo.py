"""GDPO's surrogate (arXiv 2510.08554): the evidence lower bound of a completion, integrated over time by quadrature.

    ELBO = int_0^1 1/t E sum_{masked} log pi(o_i | c, z_t) dt  ~  sum_n w_n / t_n sum_{masked} log pi(o_i | c, z_n)

t_n and w_n are the N nodes and weights of Gauss and Legendre on (0, 1), and z_n masks each position with probability
t_n. A drawn t is most of the bound's variance; with fixed ones masks alone are drawn, and each token counts once in the
mean. GDPO exponentiates the whole, over the length (`ratio_level=sequence` of the clipped loss).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from diffpo.config.checks import bound
from diffpo.functional.latents import Latents, masked_latents
from diffpo.functional.random import fold, uniform
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class Gdpo(Surrogate):
    """One random mask at each of N fixed times, over the whole canvas."""

    is_likelihood = False
    num_times: int = 3

    def __post_init__(self) -> None:
        bound(self, "", "num_times", ">=", 1)

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        masks, weights = quadrature_masks(fold(keys, 1), self.num_times, batch.tokens.shape[1])
        return masked_latents(batch, masks, weights, mask_id)

    def cost(self, nfe: float) -> Cost:
        return Cost(self.num_times, 0.5)


def quadrature_masks(
    keys: Int64[Tensor, " B"], num_times: int, length: int
) -> tuple[Bool[Tensor, "B N L"], Float[Tensor, "B N L"]]:
    """Masks of a row's latents, and the weight of each token's log-prob there: 0 where the token is not masked."""
    nodes, weights = (torch.tensor(values, dtype=torch.float32, device=keys.device) for values in leggauss(num_times))
    times, shares = (1 + nodes) / 2, weights / 2  # from (-1, 1)
    draws = fold(keys[:, None], torch.arange(num_times, device=keys.device))
    masks = uniform(fold(draws[:, :, None], torch.arange(length, device=keys.device))) < times[:, None]
    return masks, masks * (shares / times)[:, None]
