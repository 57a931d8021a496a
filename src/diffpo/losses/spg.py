"""SPG's loss, the sandwich (arXiv 2510.09541): a lower bound of what is to become likelier, an upper one of the rest.

    J = sum_r A_r L_r,    L = ELBO where A > 0,    omega EUBO + (1 - omega) ELBO elsewhere
    ELBO = 1/M sum_t 1/n_t sum_{masked in z_t} log p_i(z_t)
    EUBO = 1/(beta n) sum_i log( 1/M sum_{t: i masked in z_t} p_i(z_t)^beta / t^ ),    t^ = n_t / |o|

n counts tokens that any of the M draws masks. Unlearning a lower bound may lower the bound and not the likelihood; the
upper bound (Renyi's) cannot. The mean of p^beta is taken in log space, where it neither vanishes nor needs a stand-in
for 0. There is no ratio. SPG weighs completions by their lengths: `objective.loss_type` = "bnpo".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffpo.config.checks import bound, check
from diffpo.losses.base import Lines, Loss, Unit


@dataclass(frozen=True)
class Spg(Loss):
    """Two bounds."""

    takes_importance = False
    num_lines = 2
    beta: float = 1.5
    """Order of the upper bound, at least 1."""
    omega: float = 0.5
    """Share of the upper bound where the advantage is negative."""

    def __post_init__(self) -> None:
        bound(self, "", "beta", ">=", 1, finite=True)
        check(0 <= self.omega <= 1, f"omega must lie in [0, 1], got {self.omega}")

    def gain(self, logprobs: Tensor, lines: Lines) -> tuple[Tensor, dict[str, Tensor]]:
        by_row = (logprobs.unflatten(0, (-1, lines.num_lines)), lines.mask.unflatten(0, (-1, lines.num_lines)))
        lengths = lines.batch.loss_mask.sum(-1).unflatten(0, (-1, lines.num_lines))
        lower, upper = elbo(*by_row), eubo(*by_row, lengths, self.beta)
        advantages = lines.batch.advantages.unflatten(0, (-1, lines.num_lines))[:, 0]
        bounds = lower.where(advantages > 0, self.omega * upper + (1 - self.omega) * lower)
        return (advantages * bounds).repeat_interleave(lines.num_lines)[:, None].expand_as(logprobs), {}

    @property
    def unit(self) -> Unit:
        return "row"


def elbo(logprobs: Float[Tensor, "B M L"], masks: Bool[Tensor, "B M L"]) -> Float[Tensor, " B"]:
    """Mean over draws of the mean log-probability of what each masks."""
    return ((logprobs * masks).sum(-1) / masks.sum(-1).clamp_min(1)).mean(-1)


def eubo(
    logprobs: Float[Tensor, "B M L"], masks: Bool[Tensor, "B M L"], lengths: Int64[Tensor, "B M"], beta: float
) -> Float[Tensor, " B"]:
    """The upper bound, over tokens that any draw masks."""
    share = masks.sum(-1, keepdim=True).clamp_min(1) / lengths[:, :, None]
    terms = (beta * logprobs - share.log()).masked_fill(~masks, -1e30)  # not -inf, which has no gradient
    seen = masks.any(1)
    means = (terms.logsumexp(1) - math.log(masks.shape[1])).where(seen, 0.0)
    return means.sum(-1) / (beta * seen.sum(-1).clamp_min(1))
