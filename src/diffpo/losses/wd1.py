"""wd1 (arXiv 2507.08838): a weighted likelihood without a ratio.

    J = 1/P sum_prompts sum_i (w+_i - w-_i) log pi^(o_i | c),   w+ = softmax(psi A),  w- = softmax(-psi A) over a group

log pi^ of a completion is the sum over its tokens: `objective.loss_type` = "dr_grpo" has that, over L; "grpo" has their
mean, of which a token of a long completion is a smaller part.

Good completions are imitated and bad ones unlearned. No old policy is in it, so none has to be scored. Where advantages
are small, w+ - w- = 2 psi A / G, and J is REINFORCE's objective.

DMPO (arXiv 2510.08233) has the same weights at psi = 1 / alpha where the policy that drew the completions is the
reference: w+ is that policy tilted by exp(r / alpha), which the trained one is to match, and w- a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffpo.config.checks import bound
from diffpo.functional.objective import group_advantages
from diffpo.losses.base import Lines, Loss


@dataclass(frozen=True)
class Wd1(Loss):
    """Imitate what is good, unlearn what is bad."""

    psi: float = 1.0
    """Scale of the advantages: the larger, the more the best and the worst of a group count alone. DMPO: 10 to 25."""

    def __post_init__(self) -> None:
        bound(self, "", "psi", ">", 0, finite=True)

    def gain(self, logprobs: Tensor, lines: Lines) -> tuple[Tensor, dict[str, Tensor]]:
        """A log pi: its gradient is REINFORCE's, at every iteration and however far the policy has moved."""
        return lines.advantages * logprobs, {}

    def advantages(self, rewards: Tensor, scale: bool) -> Tensor:
        return wd1_advantages(rewards, scale, self.psi)


def wd1_advantages(rewards: Float[Tensor, "P G"], scale: bool = False, psi: float = 1.0) -> Float[Tensor, "P G"]:
    """G (w+_i - w-_i), which stands where GRPO has A_i; the mean over P G rows then is wd1's over prompts.

    A group of equal rewards has none, and a reward that is NaN leaves its row out of G and of both softmaxes.
    """
    out = rewards.isnan()
    advantages = psi * group_advantages(rewards, scale)
    good = advantages.masked_fill(out, -torch.inf).softmax(-1)
    bad = (-advantages).masked_fill(out, -torch.inf).softmax(-1)
    live = advantages.any(-1, keepdim=True) & ~out  # equal rewards: exactly 0, not a rounding error
    return torch.where(live, (~out).sum(-1, keepdim=True) * (good - bad), 0.0)
