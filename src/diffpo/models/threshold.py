"""The threshold head pi_phi(gamma | prompt or state): the adaptive sampler's policy over entropy bounds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffpo.config import ThresholdConfig
from diffpo.functional.objective import gaussian_logprob
from diffpo.functional.random import normal


class ThresholdHead(nn.Module):
    """gamma = gamma_max * sigmoid(a), a ~ N(f(h), sigma^2).

    h is the pooled hidden state of the prompt, for one gamma a completion, or (`config.level` "state") that of the
    masks left in the active block, for one gamma a call: an open question of the paper (arXiv 2510.02212).

    f is linear in standardised features and bounded: f = bound * tanh(z / bound). It starts at gamma_init for every
    prompt. The features' mean and scale are gathered while the weights are zero, when they cannot change f.
    """

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
        self.square: Tensor
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("square", torch.ones(hidden_size))

    def forward(self, features: Tensor) -> Tensor:
        """f of raw features [..., D], shape [...]."""
        scale = (self.square - self.mean**2).clamp_min(1e-6).sqrt() * math.sqrt(len(self.weight))
        # a sum a row rather than a matrix product, whose order of summation may depend on the batch
        z = ((features.float() - self.mean) / scale * self.weight).sum(-1) + self.bias
        return self.config.bound * torch.tanh(z / self.config.bound)

    @property
    def untrained(self) -> bool:
        """Whether the weights are still zero, so that every prompt has the same mean."""
        return not bool(self.weight.any())

    def gamma(self, action: Tensor) -> Tensor:
        """The threshold (nats) of an action."""
        return self.config.gamma_max * torch.sigmoid(action)

    def choose(self, features: Tensor, keys: Tensor, explore: Tensor) -> tuple[Tensor, Tensor]:
        """Actions and their log-probabilities, [B]; rows where `explore` is False take the mean f."""
        mean = self(features)
        action = torch.where(explore, mean + self.config.sigma * normal(keys), mean)
        return action, self.logprob(action, mean)

    def logprob(self, action: Tensor, mean: Tensor) -> Tensor:
        return gaussian_logprob(action, mean, self.config.sigma)

    @torch.no_grad()
    def observe(self, features: Tensor) -> None:
        """Gather the mean and scale of features [N, D]; call only while the weights are zero."""
        self.count += len(features)
        share = len(features) / self.count
        self.mean += share * (features.float().mean(0) - self.mean)
        self.square += share * (features.float().square().mean(0) - self.square)
