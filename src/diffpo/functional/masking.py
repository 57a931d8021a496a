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
    times: Float[Tensor, " B"], blocks: Int64[Tensor, "B 2"], lengths: Int64[Tensor, " B"], width: int
) -> Float[Tensor, "B L"]:
    """A time for each block of a row (BD3-LM, arXiv 2503.09573), at its positions: `times` moved on by equal steps.

    Each block's is uniform on [0, 1), as the row's is, and the times of a row are spread evenly.
    """
    number, _ = block_places(blocks, width)
    count = -(-(lengths + blocks[:, 1]) // blocks[:, 0])
    return (times[:, None] + number / count[:, None]) % 1


def forward_process(
    times: Float[Tensor, "B L"], uniforms: Float[Tensor, "B L"], maskable: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """q(z_t | x): each maskable position is masked on its own with probability t."""
    return maskable & (uniforms < times)


def mask_counts(
    times: Float[Tensor, "B L"],
    uniforms: Float[Tensor, "B L"],
    maskable: Bool[Tensor, "B L"],
    blocks: Int64[Tensor, "B 2"],
    min_share: float = 0.0,
) -> tuple[Bool[Tensor, "B L"], Float[Tensor, "B L"]]:
    r"""Masks exactly k of the n maskable positions of each block, and the share k / n, which is their time.

    $k = k_0 + \lfloor t (n - k_0 + 1) \rfloor$ with $k_0 = \max(1, \lceil n \, \mathrm{min\_share} \rceil)$: uniform on
    k_0 .. n where `times`, one a block, are on [0, 1). Masked are the k positions of the smallest `uniforms`. The mean
    of `nelbo` is that of chances (LLaDA, arXiv 2502.09992, Eq. 6), with less variance: no block goes without a mask,
    and no weight exceeds n.
    """
    number, _ = block_places(blocks, times.shape[1])
    sizes = torch.zeros(len(times), int(number.max()) + 1, dtype=torch.int64, device=times.device)
    sizes = sizes.scatter_add(1, number, maskable.long())
    size, before = (each.gather(1, number) for each in (sizes, sizes.cumsum(-1) - sizes))
    drawn = torch.where(maskable, number + uniforms.double(), torch.inf)  # block by block, within each by lot
    rank = drawn.argsort(dim=-1, stable=True).argsort(dim=-1) - before
    least = (size * min_share - 1e-6).ceil().long().clamp_min(1)
    count = torch.minimum(least + (times * (size - least + 1)).long(), size)
    return maskable & (rank < count), count / size.clamp_min(1)


def nelbo(
    logprobs: Float[Tensor, "B L"], masked: Bool[Tensor, "B L"], times: Float[Tensor, "B L"]
) -> Float[Tensor, " B"]:
    """One-sample negative ELBO in nats, (1/t) sum over masked positions of -log p (LLaDA, arXiv 2502.09992, Eq. 3).

    `logprobs` are those of the true tokens given the masked sequence; unmasked positions are ignored. `times` are those
    of the positions: one a row, or one a block.
    """
    return -torch.where(masked, logprobs / times, 0.0).sum(-1)
