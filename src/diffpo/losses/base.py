"""What every loss answers: what a token adds to J, what it needs for that, and what its advantages are.

A loss is a frozen dataclass in a file of its own; its fields are its knobs, checked in `__post_init__`. It is named in
`config.objective.LOSSES`, or by its file, `objective.loss = "PATH.py:CLASS"`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from diffpo.functional.objective import Level, group_advantages, kl_k3, pool_log_ratios
from diffpo.types import Batch

Unit = Literal["token", "call", "sequence", "row"]
"""What is scored as one: a token, the tokens of one call, a line of a completion, or all its lines."""


@dataclass(frozen=True, eq=False)
class Lines:
    """N lines of L tokens that are scored, one a row of a batch or M in turn, and what their log-probs are held to."""

    batch: Batch
    """Of N rows: each row as many times as it has lines."""
    mask: Tensor  # [N, L] bool: what J sees
    old: Tensor | None  # [N, L] log-probs before the first update
    ref: Tensor | None  # [N, L] log-probs of the reference
    num_lines: int = 1
    """M."""

    @property
    def advantages(self) -> Tensor:
        """[N, 1]"""
        return self.batch.advantages[:, None]

    def log_ratio(self, logprobs: Tensor, others: Tensor, level: Level) -> Tensor:
        """Log-ratios to `others`, each the mean of what `level` treats as one, [N, L]."""
        return pool_log_ratios(logprobs - others, self.mask, self.batch.committed_at, level)

    def units(self, unit: Unit) -> Tensor:
        """Number of the unit of each token, [N, L]: tokens of one number are scored as one."""
        number, length = self.mask.shape  # of which no call commits nothing: there are at most `length`
        line = torch.arange(number, device=self.mask.device)[:, None]
        named = {
            "token": line * length + torch.arange(length, device=self.mask.device),
            "call": line * (length + 1) + self.batch.committed_at,
            "sequence": line,
            "row": line // self.num_lines,
        }
        return named[unit].expand(number, length)


class Loss(ABC):
    """What is made of log-probabilities."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that `gain` returns."""
    needs_old: ClassVar[bool] = False
    """Whether the policy before the first update is in it."""
    pulls_back: ClassVar[bool] = False
    """Whether a completion of advantage 0 has a gradient too, once the policy has moved."""
    takes_importance: ClassVar[bool] = True
    """Whether importance weights may stand before its gain."""
    num_lines: ClassVar[int] = 1
    """Lines of a completion that it needs at least."""

    @abstractmethod
    def gain(self, logprobs: Tensor, lines: Lines) -> tuple[Tensor, dict[str, Tensor]]:
        """What each token adds to J before its weight, [N, L], differentiable; and measured values of the tokens.

        The names of what is measured are `measures`. A gain of a whole completion stands at each of its tokens, whose
        weights add up to the completion's.
        """

    @property
    def unit(self) -> Unit:
        """Whose log-probabilities a token's gain depends on: where a unit is divided in memory, it is scored twice."""
        return "token"

    @property
    def has_own_advantages(self) -> bool:
        """Whether it makes something else of rewards, which is the denoiser's alone: no sampler can learn from it."""
        return type(self).advantages is not Loss.advantages

    def advantages(self, rewards: Tensor, scale: bool) -> Tensor:
        """What a completion's reward is worth beside its group's, [P, G] from [P, G]."""
        return group_advantages(rewards, scale)

    def kl(self, logprobs: Tensor, others: Tensor, lines: Lines) -> Tensor:
        """Estimate of KL(now, other) at each token, [N, L]: k3, of what is scored as one."""
        log_ratio = lines.log_ratio(logprobs, others, self.level)
        return kl_k3(log_ratio, torch.zeros_like(log_ratio))

    @property
    def level(self) -> Level:
        """What has one log-ratio in what is measured of it: its unit, of each line by itself."""
        return "sequence" if self.unit == "row" else self.unit
