"""What the kinds of a sampler head share: pi_phi, which decides what denoiser calls commit."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class SamplerHead(nn.Module):
    """Makes decisions, and knows the probability of those it made.

    A decision is an action, made on features. The rollout records both with the action's log-probability, and training
    reads them again: no gradient enters the denoiser through a head.
    """

    kind: ClassVar[str]
    """`sampler_head` of a recipe, the section of its settings and the name of its file."""
    action_dtype: ClassVar[torch.dtype]

    @property
    def by_state(self) -> bool:
        """Whether every call has a decision of its own, made on the state of the canvas; else a prompt has one."""
        return True

    @property
    def spoken(self) -> str:
        """What has a decision, in words."""
        raise NotImplementedError

    def shapes(self, window: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of a decision's features and its action, where blocks have `window` positions."""
        raise NotImplementedError

    def observe(self, features: Tensor) -> None:
        """Look at the features of decisions [N, ...] before they are learned from."""
