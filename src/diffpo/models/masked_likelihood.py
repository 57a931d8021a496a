"""Log-probabilities of completions given random parts of themselves: the surrogates of coupled-GRPO and ESPO."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.functional.coupled import coupled_masks
from diffpo.functional.elbo import elbo_masks
from diffpo.models.likelihood import canvas_states, score_tokens, surrogate_logprobs, with_prompts
from diffpo.models.policy import Policy
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
    rows, latent, positions = ((weights > 0) & batch.loss_mask[:, None]).nonzero(as_tuple=True)
    wanted, source = (rows * masks.shape[1] + latent).unique(return_inverse=True)
    row, which = wanted // masks.shape[1], wanted % masks.shape[1]
    canvas = batch.tokens[row].masked_fill(masks[row, which], policy.mask_id)
    hidden, begins = canvas_states(policy, *with_prompts(batch, row, canvas), batch.gen_lengths[row])
    scores = score_tokens(policy, hidden[begins[source] + positions], batch.tokens[rows, positions], temperature)
    weighted = scores * weights[rows, latent, positions]
    return torch.zeros(batch.tokens.shape, device=policy.device).index_put((rows, positions), weighted, accumulate=True)
