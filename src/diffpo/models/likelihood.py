"""Surrogate log-probabilities of rollouts under a policy: one packed forward a micro-batch."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.functional.random import fold, uniform
from diffpo.functional.surrogate import assign_cuts, latents
from diffpo.models.fused import token_logprobs
from diffpo.models.policy import Policy
from diffpo.models.transformer import pack, windows
from diffpo.types import Batch


def surrogate_logprobs(
    policy: Policy,
    batch: Batch,
    cuts: Tensor,
    temperature: float,
    prompt_mask_prob: float = 0.0,
    mask_keys: Tensor | None = None,
) -> Tensor:
    """log pi^(o_i) of every token in the loss, given the latent at its cut; [B, L], 0 elsewhere. Differentiable.

    `cuts` [B, M] as `draw_cuts` returns them. The latent z_0 (prompt, all masks) is the same for every row of a prompt
    and goes through the denoiser once. With `prompt_mask_prob` each row masks that share of its prompt in z_0 instead
    (d1), keyed by `mask_keys` [B].
    """
    device = policy.device
    assigned = assign_cuts(batch.committed_at, cuts)
    rows, positions = batch.loss_mask.nonzero(as_tuple=True)
    # one latent per (row, cut) that scores any token; z_0 stands under the first row of its prompt
    first = {}
    canvases = list(zip(batch.prompt_ids, batch.gen_lengths.tolist(), strict=True))
    leads = torch.tensor([first.setdefault(canvas, row) for row, canvas in enumerate(canvases)], device=device)
    cut = assigned[rows, positions]
    shared = (cut == 0) & (prompt_mask_prob == 0)
    identity = torch.where(shared, leads[rows], rows) * cuts.shape[1] + cut
    wanted, source = identity.unique(return_inverse=True)
    latent_row, latent_cut = wanted // cuts.shape[1], wanted % cuts.shape[1]

    canvas = latents(
        batch.tokens[latent_row], batch.committed_at[latent_row], cuts[latent_row, latent_cut], policy.mask_id
    )
    sequences, prompt_lengths = with_prompts(batch, latent_row, canvas)
    if prompt_mask_prob > 0:
        assert mask_keys is not None
        place = torch.arange(sequences.shape[1], device=device)
        lottery = uniform(fold(mask_keys[latent_row][:, None], place))
        hide = (lottery < prompt_mask_prob) & (place < prompt_lengths[:, None]) & (latent_cut == 0)[:, None]
        sequences = sequences.masked_fill(hide, policy.mask_id)
    hidden, begins = canvas_states(policy, sequences, prompt_lengths, batch.gen_lengths[latent_row])
    hidden = hidden[begins[source] + positions]
    scores = score_tokens(policy, hidden, batch.tokens[rows, positions], temperature)
    return torch.zeros(batch.tokens.shape, device=device).index_put((rows, positions), scores)


def score_tokens(policy: Policy, hidden: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at `tokens` [N] of final hidden states [N, D]. Differentiable."""
    denoiser = policy.denoiser
    return token_logprobs(hidden, denoiser.head.weight, tokens, temperature, policy.banned, denoiser.compute_dtype)


def with_prompts(batch: Batch, rows: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """Prompts of `rows` [R] with a `canvas` [R, L] behind each, right-padded, and the prompts' lengths [R]."""
    prompts = [torch.tensor(batch.prompt_ids[row], dtype=torch.int64) for row in rows.tolist()]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=canvas.device)
    sequences = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(canvas.device)
    sequences = torch.nn.functional.pad(sequences, (0, canvas.shape[1]))
    place = lengths[:, None] + torch.arange(canvas.shape[1], device=canvas.device)
    return sequences.scatter(1, place, canvas), lengths


def canvas_states(
    policy: Policy, sequences: Tensor, prompt_lengths: Tensor, gen_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Final hidden states that predict the canvas of each row, [Q, D], and where among them it begins, [R]."""
    ids, packing = pack(sequences, prompt_lengths + gen_lengths, gen_lengths)
    queries, begins = windows(packing, prompt_lengths - policy.denoiser.config.shift, gen_lengths)
    return policy.denoiser(ids, packing, queries), begins
