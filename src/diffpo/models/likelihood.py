"""Log-probabilities of tokens given latents: one packed forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.functional.latents import Latents, cut_latents
from diffpo.models.attention import pack, queries_of
from diffpo.models.branches import block_states
from diffpo.models.fused import centred_logits, token_logprobs
from diffpo.models.indexing import add_at, take
from diffpo.models.policy import Policy
from diffpo.types import Batch


def score(policy: Policy, latents: Latents, temperature: float) -> Tensor:
    """sum_j weight_ji log pi(o_i | latent j) of every token that has a term, [B, L], 0 elsewhere. Differentiable.

    Of `centred` latents each less its mean over the vocabulary.
    """
    if latents.blocks is None:
        hidden, begins = canvas_states(policy, latents.sequences, latents.prompt_lengths, latents.gen_lengths)
        hidden = take(hidden, begins[latents.source] + latents.positions)  # a group may share its first latent
    else:
        hidden = block_states(policy, latents)
    score_each = score_centred if latents.centred else score_tokens
    scores = score_each(policy, hidden, latents.tokens, temperature) * latents.weights
    return add_at(scores, latents.rows, latents.positions, latents.shape)


def surrogate_logprobs(policy: Policy, batch: Batch, cuts: Tensor, temperature: float) -> Tensor:
    """log pi^(o_i) of every token in the loss, given the latent at its cut; [B, L], 0 elsewhere. Differentiable.

    `cuts` as `draw_batch_cuts` returns them.
    """
    return score(policy, cut_latents(batch, cuts, policy.mask_id), temperature)


def score_tokens(policy: Policy, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at `tokens` [N] of final hidden states [N, D]. Differentiable."""
    denoiser = policy.denoiser
    return token_logprobs(hidden, denoiser.head.weight, tokens, temperature, policy.banned, denoiser.compute_dtype)


def score_centred(policy: Policy, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """The same less the mean over the vocabulary."""
    return centred_logits(hidden, policy.denoiser.head.weight, tokens, temperature, policy.banned)


def canvas_states(
    policy: Policy, sequences: Tensor, prompt_lengths: Tensor, gen_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Final hidden states that predict the canvas of each row, [Q, D], and where among them it begins, [R]."""
    # as wide as the rows: the host need not know how long the longest canvas is
    places = prompt_lengths[:, None] + torch.arange(sequences.shape[1], device=sequences.device)
    sources = (places - policy.denoiser.config.shift).clamp_min(0)
    ids, packing = pack(sequences, prompt_lengths + gen_lengths, gen_lengths)
    queries, begins = queries_of(packing, sources, gen_lengths)
    return policy.denoiser(ids, packing, queries), begins
