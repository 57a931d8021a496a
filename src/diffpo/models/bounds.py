"""How likely a text is, as a bound: the evidence lower bound of a canvas that stands behind a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffpo.functional.latents import Latents
from diffpo.functional.masking import block_times, mask_counts, nelbo, stratified_times
from diffpo.functional.random import fold, uniform
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy


@torch.no_grad()
def evidence_bounds(policy: Policy, prompt: Sequence[int], tokens: Sequence[int], num_samples: int, key: int) -> Tensor:
    """One-sample lower bounds of log p(tokens | prompt), nats, [num_samples]: their mean is the bound.

    Numbers of masks lie in equal strata, masks are keyed (LLaDA, arXiv 2502.09992, Eq. 6); where attention is
    block-causal each block has its own. ValueError if the model cannot hold both.
    """
    length, shape, device = len(tokens), policy.denoiser.config, policy.device
    if len(prompt) + length > shape.max_length:
        raise ValueError(f"{len(prompt) + length} tokens exceed the model's {shape.max_length}")
    if not length:
        return torch.zeros(num_samples)
    rows, keys = torch.arange(num_samples), torch.tensor(key)
    own = shape.blocks(len(prompt), shape.block_length) if shape.block_length else None
    blocks = torch.tensor(own or (length, 0)).expand(num_samples, 2)
    times = stratified_times(uniform(fold(keys, rows, 1)), 0.0)
    times = block_times(times, blocks, torch.full_like(rows, length), length)
    lottery = uniform(fold(keys, rows[:, None] * length + torch.arange(length), 2))
    masked, shares = mask_counts(times, lottery, torch.ones_like(lottery, dtype=torch.bool), blocks)
    masked, shares = masked.to(device), shares.to(device)
    text = torch.tensor([*tokens], device=device).expand(num_samples, length)
    before = torch.tensor([*prompt], dtype=torch.int64, device=device).expand(num_samples, len(prompt))
    sequences = torch.cat([before, text.masked_fill(masked, policy.mask_id)], dim=1)
    prompts, canvases = (torch.full((num_samples,), size, device=device) for size in (len(prompt), length))
    latents = Latents.of_rows(sequences, prompts, text, canvases, masked, blocks.to(device) if own else None)
    return -nelbo(score(policy, latents, 1.0), masked, shares).cpu()
