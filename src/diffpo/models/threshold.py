"""The threshold head pi_phi(gamma | prompt or state): the adaptive sampler's policy over entropy bounds."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffpo.config import ThresholdConfig
from diffpo.functional.objective import gaussian_logprob
from diffpo.functional.random import normal
from diffpo.models.sampler_head import SamplerHead

BASE_WIDTH = 96
"""Width of the tiny models, at which `threshold.learning_rate` was chosen."""
MIN_STD, MIN_RELATIVE_STD = 1e-3, 1e-5
"""Smallest deviation of a feature, absolute and over its mean: what varies less varies by rounding."""


class ThresholdHead(SamplerHead):
    """gamma = gamma_max * sigmoid(a), a ~ N(f(h), sigma^2).

    h is the pooled hidden state of the prompt, for one gamma a completion, or (`config.level` "state") that of the
    masks left in the active block, for one gamma a call: an open question of the paper (arXiv 2510.02212).

    f is linear in standardised features and bounded: f = bound * tanh(z / bound). It starts at gamma_init for every
    prompt. The features' mean and variance are gathered while the score is zero, when they cannot change f.

    Adam moves every weight by about the learning rate, so that of D features the step of z = w . x would grow with D.
    They are divided by D, as in muP (arXiv 2203.03466), in units of BASE_WIDTH: one rate for models of any width.
    """

    kind: ClassVar[str] = "threshold"
    action_dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, hidden_size: int, config: ThresholdConfig) -> None:
        super().__init__()
        self.config = config
        start = math.log(config.gamma_init / (config.gamma_max - config.gamma_init))
        if abs(start) >= config.bound:
            raise ValueError(
                f"threshold.gamma_init = {config.gamma_init} lies outside the head's range: raise threshold.bound "
                f"above {abs(start):.2f} or move gamma_init"
            )
        self.weight = nn.Parameter(torch.zeros(hidden_size))
        self.bias = nn.Parameter(torch.tensor(config.bound * math.atanh(start / config.bound)))
        self.count: Tensor
        self.mean: Tensor
        self.variance: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("variance", torch.ones(hidden_size))

    def forward(self, features: Tensor) -> Tensor:
        """f of raw features [..., D], shape [...]."""
        least = (MIN_RELATIVE_STD * self.mean).square().clamp_min(MIN_STD**2)
        scale = self.variance.maximum(least).sqrt() * (math.sqrt(BASE_WIDTH) * (len(self.mean) / BASE_WIDTH))
        z = self.score((features.float() - self.mean) / scale) + self.bias
        return self.config.bound * torch.tanh(z / self.config.bound)

    def score(self, x: Tensor) -> Tensor:
        """w . x of standardised features [..., D], shape [...]: what a head of your own computes otherwise."""
        # a sum a row rather than a matrix product, whose order of summation may depend on the batch
        return (x * self.weight).sum(-1)

    @property
    def by_state(self) -> bool:
        return self.config.level == "state"

    @property
    def spoken(self) -> str:
        return f"a threshold a {'call' if self.by_state else 'prompt'}"

    def shapes(self, window: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(self.mean.shape), ()

    @property
    def probe(self) -> Tensor:
        """Standardised features as they might be, [4, D]."""
        numbers = torch.arange(4 * len(self.mean), device=self.mean.device)
        return normal(numbers.view(4, -1))

    @property
    def untrained(self) -> bool:
        """Whether the score is still zero, so that every prompt has the same mean, whatever weights lie below it."""
        return not bool(self.score(self.probe).any())

    def gamma(self, action: Tensor) -> Tensor:
        """The threshold (nats) of an action."""
        # in fp64: on a CPU the last digit of an fp32 sigmoid depends on where in its tensor a number stands
        return (self.config.gamma_max * torch.sigmoid(action.double())).float()

    def choose(self, features: Tensor, keys: Tensor, explore: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-probabilities, [B]; rows where `explore` is False take the mean f."""
        mean = self(features)
        action = torch.where(explore, mean + self.config.sigma * normal(keys), mean)
        return action, self.logprob(action, mean)

    def logprob(self, action: Tensor, mean: Tensor) -> Tensor:
        return gaussian_logprob(action, mean, self.config.sigma)

    @torch.no_grad()
    def observe(self, features: Tensor) -> None:
        """Gather the mean and variance of features [N, D] while the score is zero; then they stay as they are.

        Two samples are merged as by Chan, Golub and LeVeque (1979): no difference of large squares is taken.
        """
        if not len(features) or not self.untrained:
            return
        self.count += len(features)
        share = len(features) / self.count
        variance, mean = torch.var_mean(features.float(), 0, correction=0)
        gap = mean - self.mean
        self.mean += share * gap
        self.variance.mul_(1 - share).add_(share * (variance + (1 - share) * gap.square()))
