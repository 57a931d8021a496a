"""Log-probabilities of tokens given latents: one packed forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.functional.latents import Latents, cut_latents
from diffpo.models.fused import token_logprobs
from diffpo.models.policy import Policy
from diffpo.models.transformer import pack, windows
from diffpo.types import Batch


def score(policy: Policy, latents: Latents, temperature: float) -> Tensor:
    """sum_j weight_ji log pi(o_i | latent j) of every token that has a term, [B, L], 0 elsewhere. Differentiable."""
    hidden, begins = canvas_states(policy, latents.sequences, latents.prompt_lengths, latents.gen_lengths)
    hidden = hidden[begins[latents.source] + latents.positions]
    scores = score_tokens(policy, hidden, latents.tokens, temperature) * latents.weights
    empty = torch.zeros(latents.shape, device=policy.device)
    return empty.index_put((latents.rows, latents.positions), scores, accumulate=True)


def surrogate_logprobs(policy: Policy, batch: Batch, cuts: Tensor, temperature: float) -> Tensor:
    """log pi^(o_i) of every token in the loss, given the latent at its cut; [B, L], 0 elsewhere. Differentiable.

    `cuts` [B, M] as `draw_cuts` returns them.
    """
    return score(policy, cut_latents(batch, cuts, policy.mask_id), temperature)


def score_tokens(policy: Policy, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at `tokens` [N] of final hidden states [N, D]. Differentiable."""
    denoiser = policy.denoiser
    return token_logprobs(hidden, denoiser.head.weight, tokens, temperature, policy.banned, denoiser.compute_dtype)


def canvas_states(
    policy: Policy, sequences: Tensor, prompt_lengths: Tensor, gen_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Final hidden states that predict the canvas of each row, [Q, D], and where among them it begins, [R]."""
    ids, packing = pack(sequences, prompt_lengths + gen_lengths, gen_lengths)
    queries, begins = windows(packing, prompt_lengths - policy.denoiser.config.shift, gen_lengths)
    return policy.denoiser(ids, packing, queries), begins
