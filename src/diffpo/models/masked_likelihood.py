"""Log-probabilities of completions given random parts of themselves: the surrogates of coupled-GRPO and ESPO."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.functional.coupled import coupled_masks
from diffpo.functional.elbo import elbo_masks
from diffpo.models.likelihood import score_tokens, surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.models.transformer import pack
from diffpo.types import Batch


def coupled_logprobs(policy: Policy, batch: Batch, keys: Tensor, num_pairs: int, temperature: float) -> Tensor:
    """coupled-GRPO's log pi^(o_i) of every token in the loss, [B, L], 0 elsewhere. Differentiable.

    The masks are a function of `keys` [B]. z_T goes through the denoiser once a prompt, as 2-MF's z_0 does.
    """
    masks, weights = coupled_masks(keys, num_pairs, batch.tokens.shape[1])
    whole = surrogate_logprobs(policy, batch, torch.zeros_like(batch.nfe)[:, None], temperature)
    return whole / (num_pairs + 1) + masked_logprobs(policy, batch, masks, weights, temperature)


def elbo_logprobs(policy: Policy, batch: Batch, keys: Tensor, num_pairs: int, temperature: float) -> Tensor:
    """Each token's share of ESPO's ELBO, [B, L], 0 outside the loss; they add up to it. Differentiable.

    The masks are a function of `keys` [B]. They fall on the whole canvas; what is after the first EOS is in no loss.
    """
    masks, weights = elbo_masks(keys, num_pairs, batch.gen_lengths, batch.tokens.shape[1])
    return masked_logprobs(policy, batch, masks, weights, temperature)


def masked_logprobs(policy: Policy, batch: Batch, masks: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """sum_j weights_ji log pi(o_i | c, canvas masked by j) of the tokens in the loss, [B, L]. Differentiable.

    `masks` and `weights` [B, M, L]. A latent in which nothing is scored is left out.
    """
    device = policy.device
    rows, latent, positions = ((weights > 0) & batch.loss_mask[:, None]).nonzero(as_tuple=True)
    wanted, source = (rows * masks.shape[1] + latent).unique(return_inverse=True)
    row, which = wanted // masks.shape[1], wanted % masks.shape[1]
    prompts = [torch.tensor(batch.prompt_ids[index]) for index in row.tolist()]
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max()) + masks.shape[2]
    sequences = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(device)
    sequences = torch.nn.functional.pad(sequences, (0, width - sequences.shape[1]))
    canvas = batch.tokens[row].masked_fill(masks[row, which], policy.mask_id)
    place = lengths[:, None] + torch.arange(masks.shape[2], device=device)
    ids, packing = pack(sequences.scatter(1, place, canvas), lengths + batch.gen_lengths[row])
    hidden = policy.denoiser(ids, packing)
    at = packing.starts[source] + (lengths[source] + positions - policy.denoiser.config.shift).clamp_min(0)
    scores = score_tokens(policy, hidden[at], batch.tokens[rows, positions], temperature)
    weighted = scores * weights[rows, latent, positions]
    return torch.zeros(batch.tokens.shape, device=device).index_put((rows, positions), weighted, accumulate=True)
