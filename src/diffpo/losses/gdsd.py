"""GDSD's loss (arXiv 2605.29398): the change of a completion's log-likelihood is regressed onto its advantage.

    J = - 1/B sum_r (Delta_r / L - psi A_r)^2  -  beta / B sum_r (f_r - f_ref,r)^2 / (2 L)
    Delta = clamp(f - f_old, log(1 - eps), log(1 + eps)),    f = sum of the completion's log-probabilities

There is no ratio. The clamp is inside the square: at Delta = 0 the gradient is 2 psi A / L grad f, REINFORCE's, and
beyond it 0, a trust region of the summed log-likelihood: a completion of advantage 0 is held where it was.
`objective.loss_type` = "grpo" gives the mean over rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from diffpo.config.checks import bound, check
from diffpo.losses.base import Lines, Loss, Unit


@dataclass(frozen=True)
class Gdsd(Loss):
    """A regression."""

    measures = ("clip_ratio",)
    needs_old = pulls_back = True
    takes_importance = False
    psi: float = 1.0
    """Scale of the advantages: 1 for planning, 10 for mathematics."""
    epsilon: float = 4e-4
    """Half-width of the trust region."""

    def __post_init__(self) -> None:
        bound(self, "", "psi", ">", 0, finite=True)
        check(0 < self.epsilon < 1, f"epsilon must lie in (0, 1), got {self.epsilon}")

    def gain(self, logprobs: Tensor, lines: Lines) -> tuple[Tensor, dict[str, Tensor]]:
        assert lines.old is not None
        change = ((logprobs - lines.old) * lines.mask).sum(-1, keepdim=True)
        low, high = math.log1p(-self.epsilon), math.log1p(self.epsilon)
        target = self.psi * lines.advantages
        gain = -(change.clamp(low, high) / lines.batch.gen_lengths[:, None] - target).square()
        outside = ((change.detach() < low) | (change.detach() > high)).float()
        return gain.expand_as(logprobs), {"clip_ratio": outside.expand_as(logprobs)}

    def kl(self, logprobs: Tensor, others: Tensor, lines: Lines) -> Tensor:
        """(f - f_ref)^2 / 2L at each token of a completion: k2 of the whole, over the canvas."""
        change = ((logprobs - others) * lines.mask).sum(-1, keepdim=True)
        return (change.square() / (2 * lines.batch.gen_lengths[:, None])).expand_as(logprobs)

    @property
    def unit(self) -> Unit:
        return "sequence"
