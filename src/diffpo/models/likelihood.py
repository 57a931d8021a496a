"""Log-probabilities of tokens given latents: one packed forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.functional.latents import Latents, cut_latents
from diffpo.models.attention import label, pack, queries_of
from diffpo.models.fused import token_logprobs
from diffpo.models.policy import Policy
from diffpo.types import Batch


def score(policy: Policy, latents: Latents, temperature: float) -> Tensor:
    """sum_j weight_ji log pi(o_i | latent j) of every token that has a term, [B, L], 0 elsewhere. Differentiable."""
    rows = (latents.sequences, latents.prompt_lengths, latents.gen_lengths, latents.clean, latents.blocks)
    hidden, begins = canvas_states(policy, *rows)
    hidden = hidden[begins[latents.source] + latents.positions]
    scores = score_tokens(policy, hidden, latents.tokens, temperature) * latents.weights
    empty = torch.zeros(latents.shape, device=policy.device)
    return empty.index_put((latents.rows, latents.positions), scores, accumulate=True)


def surrogate_logprobs(policy: Policy, batch: Batch, cuts: Tensor, temperature: float) -> Tensor:
    """log pi^(o_i) of every token in the loss, given the latent at its cut; [B, L], 0 elsewhere. Differentiable.

    `cuts` as `draw_batch_cuts` returns them.
    """
    return score(policy, cut_latents(batch, cuts, policy.mask_id), temperature)


def score_tokens(policy: Policy, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at `tokens` [N] of final hidden states [N, D]. Differentiable."""
    denoiser = policy.denoiser
    return token_logprobs(hidden, denoiser.head.weight, tokens, temperature, policy.banned, denoiser.compute_dtype)


def canvas_states(
    policy: Policy,
    sequences: Tensor,
    prompt_lengths: Tensor,
    gen_lengths: Tensor,
    clean: Tensor | None = None,
    blocks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Final hidden states that predict the canvas of each row, [Q, D], and where among them it begins, [R].

    Where attention is block-causal each of the `blocks` [R, 2] of a canvas is predicted given the `clean` [R, L] blocks
    before it: one forward pass, of which the second half is noised.
    """
    # as wide as the rows: the host need not know how long the longest canvas is
    places = prompt_lengths[:, None] + torch.arange(sequences.shape[1], device=sequences.device)
    sources = (places - policy.denoiser.config.shift).clamp_min(0)
    lengths, positions, labels = prompt_lengths + gen_lengths, None, None
    if blocks is not None:
        assert clean is not None
        rows = _noised_behind_clean(sequences, prompt_lengths, gen_lengths, clean, blocks)
        sequences, lengths, positions, labels, noised = rows
        own, others = (label(t, prompt_lengths[:, None], *blocks.T[..., None]) for t in (places, sources))
        sources = torch.where(own == others, sources + noised[:, None], sources)
    ids, packing = pack(sequences, lengths, gen_lengths, positions, labels)
    queries, begins = queries_of(packing, sources, gen_lengths)
    return policy.denoiser(ids, packing, queries), begins


def _noised_behind_clean(
    sequences: Tensor, prompt_lengths: Tensor, gen_lengths: Tensor, clean: Tensor, blocks: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows of clean tokens, all that a later block sees, and behind them the noised canvas, from its block's start on.

    Their ids, positions and labels, [R, S] each, their lengths [R], and how far behind its clean place (or where that
    would be) a noised token stands, [R].
    """
    length, offset = blocks.unbind(1)
    begin = prompt_lengths - offset  # of the first block that is noised
    num_clean = begin + (gen_lengths + offset - 1) // length * length
    lengths = num_clean + gen_lengths + offset
    place = torch.arange(2 * sequences.shape[1], device=sequences.device)
    noised = place >= num_clean[:, None]
    positions = torch.where(noised, place - (num_clean - begin)[:, None], place).clamp_max(sequences.shape[1] - 1)
    in_canvas = positions - prompt_lengths[:, None]
    as_clean = clean.gather(1, in_canvas.clamp(0, clean.shape[1] - 1))
    ids = torch.where(noised | (in_canvas < 0), sequences.gather(1, positions), as_clean)
    labels = label(positions, prompt_lengths[:, None], length[:, None], offset[:, None]) + noised
    return ids, lengths, positions, labels, num_clean - begin
