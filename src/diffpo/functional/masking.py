"""The forward process of masked diffusion and its negative evidence lower bound."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def stratified_times(uniforms: Float[Tensor, " B"], min_time: float) -> Float[Tensor, " B"]:
    """One time a row, uniform on [min_time, 1], one in each of B equal strata: the same law, less variance."""
    strata = torch.arange(len(uniforms), device=uniforms.device)
    return min_time + (1 - min_time) * (strata + uniforms) / len(uniforms)


def forward_process(
    times: Float[Tensor, " B"], uniforms: Float[Tensor, "B L"], maskable: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """q(z_t | x): each maskable position is masked on its own with probability t."""
    return maskable & (uniforms < times[:, None])


def nelbo(
    logprobs: Float[Tensor, "B L"], masked: Bool[Tensor, "B L"], times: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """One-sample negative ELBO in nats, (1/t) sum over masked positions of -log p (LLaDA, arXiv 2502.09992, Eq. 3).

    `logprobs` are those of the true tokens given the masked sequence; unmasked positions are ignored.
    """
    return -torch.where(masked, logprobs, 0.0).sum(-1) / times
