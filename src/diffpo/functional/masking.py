"""The forward process of masked diffusion and its negative evidence lower bound."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffpo.functional.surrogate import block_places


def stratified_times(uniforms: Float[Tensor, " B"], min_time: float) -> Float[Tensor, " B"]:
    """One time a row, uniform on [min_time, 1], one in each of B equal strata: the same law, less variance."""
    strata = torch.arange(len(uniforms), device=uniforms.device)
    return min_time + (1 - min_time) * (strata + uniforms) / len(uniforms)


def block_times(
    times: Float[Tensor, "B L"], blocks: Int64[Tensor, "B 2"], lengths: Int64[Tensor, " B"], min_time: float
) -> Float[Tensor, "B L"]:
    """A time for each block of a row (BD3-LM, arXiv 2503.09573): `times` moved on by equal steps, all round the range.

    Each block's is uniform on [min_time, 1], as the row's is, and the times of a row are spread evenly.
    """
    number, _ = block_places(blocks, times.shape[1])
    count = -(-(lengths + blocks[:, 1]) // blocks[:, 0])
    share = (times - min_time) / (1 - min_time) + number / count[:, None]
    return min_time + (1 - min_time) * (share % 1)


def forward_process(
    times: Float[Tensor, "B L"], uniforms: Float[Tensor, "B L"], maskable: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """q(z_t | x): each maskable position is masked on its own with probability t."""
    return maskable & (uniforms < times)


def nelbo(
    logprobs: Float[Tensor, "B L"], masked: Bool[Tensor, "B L"], times: Float[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """One-sample negative ELBO in nats, (1/t) sum over masked positions of -log p (LLaDA, arXiv 2502.09992, Eq. 3).

    `logprobs` are those of the true tokens given the masked sequence; unmasked positions are ignored. `times` are those
    of the positions: one a row, or one a block.
    """
    return -torch.where(masked, logprobs / times, 0.0).sum(-1)
