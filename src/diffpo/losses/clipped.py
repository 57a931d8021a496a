"""The clipped surrogate (PPO, arXiv 1707.06347, Eq. 7), with one ratio a token, a call or a completion.

    min(rho A, clip(rho, 1 - eps, 1 + eps_high) A),    rho = pi^ / pi^_old

A call's and a completion's ratio is the geometric mean of their tokens' (GSPO, arXiv 2507.18071, Eq. 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from diffpo.config.checks import bound, check, suggest
from diffpo.functional.objective import Level, clipped_surrogate
from diffpo.losses.base import Lines, Loss


@dataclass(frozen=True)
class Clipped(Loss):
    """PPO's and GRPO's."""

    measures = ("clip_ratio",)
    needs_old = True
    epsilon: float = 0.2
    """Clip range of the ratio."""
    ratio_level: Level = "token"
    """What has one ratio: a token, the tokens of one call, or the completion (sequence)."""
    epsilon_high: float = 0.0
    """Clip range above 1, where it is another one (clip-higher, DAPO, arXiv 2503.14476); 0: epsilon."""

    def __post_init__(self) -> None:
        bound(self, "", "epsilon", ">", 0)
        bound(self, "", "epsilon_high", ">=", 0)
        levels = get_args(Level)
        check(self.ratio_level in levels, f"no ratio_level {self.ratio_level!r}{suggest(self.ratio_level, levels)}")

    def gain(self, logprobs: Tensor, lines: Lines) -> tuple[Tensor, dict[str, Tensor]]:
        assert lines.old is not None
        ratio = lines.log_ratio(logprobs, lines.old, self.ratio_level).exp()
        advantages = lines.advantages.expand_as(logprobs)
        reach = torch.where(advantages > 0, self.epsilon_high or self.epsilon, self.epsilon)
        clipped = ((ratio.detach() - 1) * advantages.sign() > reach).float()
        return clipped_surrogate(ratio, advantages, self.epsilon, self.epsilon_high), {"clip_ratio": clipped}

    @property
    def unit(self) -> Level:
        return self.ratio_level
