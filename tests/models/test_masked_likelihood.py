"""Surrogates of random masks against a slow twin that runs every latent on its own, and at their limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import keys, prompt_of, tiny_policy
from models.test_likelihood import VARIANTS, some_batch

from diffpo.functional.latents import masked_latents
from diffpo.functional.prediction import ban
from diffpo.functional.random import fold
from diffpo.functional.surrogate import draw_cuts
from diffpo.models.attention import pack
from diffpo.models.likelihood import score, surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.surrogates import load_surrogate
from diffpo.surrogates.coupled import coupled_masks
from diffpo.surrogates.elbo import elbo_masks
from diffpo.types import Batch

SURROGATES = ["coupled:2", "elbo:2"]


def masked_logprobs(
    policy: Policy, batch: Batch, masks: torch.Tensor, weights: torch.Tensor, temperature: float
) -> torch.Tensor:
    return score(policy, masked_latents(batch, masks, weights, policy.mask_id), temperature)


def slow_masked_logprobs(
    policy: Policy, batch: Batch, masks: torch.Tensor, weights: torch.Tensor, temperature: float
) -> torch.Tensor:
    """One forward pass a latent, all logits."""
    rows = []
    for row in range(len(batch)):
        prompt, size = prompt_of(batch, row), int(batch.gen_lengths[row])
        total = torch.zeros(batch.tokens.shape[1])
        for mask, weight in zip(masks[row], weights[row], strict=True):
            canvas = [policy.mask_id if hide else token for hide, token in zip(mask, batch.tokens[row], strict=True)]
            sequence = torch.tensor([[*prompt, *map(int, canvas[:size])]])
            hidden = policy.denoiser(*pack(sequence, torch.tensor([sequence.shape[1]])))
            at = torch.tensor([max(len(prompt) + i - policy.denoiser.config.shift, 0) for i in range(size)])
            logits = ban(policy.denoiser.head(hidden[at]), policy.banned)
            scores = (logits / temperature).log_softmax(-1)[range(size), batch.tokens[row, :size]]
            total[:size] = total[:size] + weight[:size] * scores
        rows.append(torch.where(batch.loss_mask[row], total, 0.0))
    return torch.stack(rows)


def all_masked(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    whole = torch.ones(batch.tokens.shape, dtype=torch.bool)[:, None]
    return whole, whole.float()


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("num_pairs", [1, 2])
def test_log_probabilities_are_those_of_the_slow_twin(changes: dict, num_pairs: int) -> None:
    policy = tiny_policy(**changes)
    batch = some_batch(policy)
    width = batch.tokens.shape[1]
    for temperature in (1.0, 0.6):
        ours = score(
            policy, load_surrogate(f"elbo:{num_pairs}").draw(batch, keys(12), policy.mask_id), temperature
        ).detach()
        masks, weights = elbo_masks(fold(keys(12), 1), num_pairs, batch.written)
        slow = slow_masked_logprobs(policy, batch, masks, weights, temperature).detach()
        torch.testing.assert_close(ours, slow, atol=1e-4, rtol=1e-5)
        ours = score(
            policy, load_surrogate(f"coupled:{num_pairs}").draw(batch, keys(12), policy.mask_id), temperature
        ).detach()
        masks, weights = coupled_masks(fold(keys(12), 1), num_pairs, width)
        whole, ones = all_masked(batch)
        masks, weights = torch.cat([masks, whole], 1), torch.cat([weights, ones / (num_pairs + 1)], 1)
        slow = slow_masked_logprobs(policy, batch, masks, weights, temperature).detach()
        torch.testing.assert_close(ours, slow, atol=1e-4, rtol=1e-5)
        assert not ours[~batch.loss_mask].any()


def test_gradients_are_those_of_the_slow_twin() -> None:
    policy = tiny_policy()
    batch = some_batch(policy)
    masks, weights = elbo_masks(keys(12), 2, batch.written)
    factors = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for function in (masked_logprobs, slow_masked_logprobs):
        policy.denoiser.zero_grad()
        (function(policy, batch, masks, weights, 0.8) * factors).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in policy.denoiser.parameters()])
    for ours, slow in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, slow, atol=2e-3, rtol=1e-3)


def test_masking_everything_is_the_mean_field() -> None:
    policy = tiny_policy()
    batch = some_batch(policy)
    mean_field = surrogate_logprobs(policy, batch, draw_cuts(batch.nfe, 1, keys(12)), 1.0).detach()
    ours = masked_logprobs(policy, batch, *all_masked(batch), 1.0).detach()
    torch.testing.assert_close(ours, mean_field, atol=1e-5, rtol=1e-5)
    # a pair at time 1 is z_T and nothing
    masks, weights = coupled_masks(keys(12), 1, batch.tokens.shape[1], times=(1.0, 1.0))
    ours = mean_field / 2 + masked_logprobs(policy, batch, masks, weights, 1.0).detach()
    torch.testing.assert_close(ours, mean_field, atol=1e-5, rtol=1e-5)


def test_the_elbo_of_one_token_is_its_log_probability() -> None:
    policy = tiny_policy()
    batch = some_batch(policy, sampler="top_k:1")
    canvas = {name: getattr(batch, name)[:, :1] for name in ("tokens", "committed_at", "loss_mask")}
    one = replace(batch, **canvas, gen_lengths=torch.ones_like(batch.nfe))
    mean_field = surrogate_logprobs(policy, one, torch.zeros(12, 1, dtype=torch.int64), 1.0).detach()
    for num_pairs in (1, 3):
        ours = score(policy, load_surrogate(f"elbo:{num_pairs}").draw(one, keys(12), policy.mask_id), 1.0).detach()
        torch.testing.assert_close(ours, mean_field, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spec", SURROGATES)
def test_rows_do_not_depend_on_their_batch(spec: str) -> None:
    policy = tiny_policy()
    batch = some_batch(policy)

    def logprobs(part: Batch, of_rows: torch.Tensor) -> torch.Tensor:
        return score(policy, load_surrogate(spec).draw(part, of_rows, policy.mask_id), 1.0).detach()

    whole = logprobs(batch, keys(12))
    assert not torch.equal(whole, logprobs(batch, keys(12, "other")))
    for size in (1, 5):
        parts = [logprobs(batch.take(rows), keys(12)[rows]) for rows in torch.arange(12).split(size)]
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-4, rtol=1e-5)
