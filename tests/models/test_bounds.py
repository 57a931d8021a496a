"""Evidence bounds against their expectation by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import tiny_policy

from diffpo.models.attention import pack
from diffpo.models.bounds import evidence_bounds
from diffpo.models.policy import Policy


def cost(policy: Policy, prompt: list[int], tokens: list[int], masked: tuple[bool, ...]) -> float:
    """Sum of -log p of the masked tokens, given the others."""
    shown = [policy.mask_id if hide else token for token, hide in zip(tokens, masked, strict=True)]
    sequence = torch.tensor([[*prompt, *shown]])
    with torch.no_grad():
        logits = policy.logits(policy.denoiser(*pack(sequence, torch.tensor([sequence.shape[1]]))))
    shift = policy.denoiser.config.shift
    at = [max(len(prompt) + place - shift, 0) for place in range(len(tokens))]
    return -sum(float(logits[at[place]].log_softmax(-1)[token]) for place, token in enumerate(tokens) if masked[place])


@pytest.mark.parametrize("shift", [0, 1])
def test_the_mean_is_the_expectation_over_times_and_masks(shift: int) -> None:
    """Of two tokens E_t[1/t sum over masks of P(mask | t) cost] = (c10 + c01) / 2 + c11 / 2."""
    policy, prompt, tokens = tiny_policy(1, shift=shift), [0, 1, 2], [3, 4]
    singles = cost(policy, prompt, tokens, (True, False)) + cost(policy, prompt, tokens, (False, True))
    exact = (singles + cost(policy, prompt, tokens, (True, True))) / 2
    draws = evidence_bounds(policy, prompt, tokens, 20_000, key=1)
    assert math.isclose(-float(draws.mean()), exact, abs_tol=4 * float(draws.std()) / 20_000**0.5 + 0.01)
    assert torch.equal(draws, evidence_bounds(policy, prompt, tokens, 20_000, key=1))


def test_what_has_no_bound() -> None:
    assert evidence_bounds(tiny_policy(), [0], [], 4, key=0).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="65 tokens exceed the model's 64"):
        evidence_bounds(tiny_policy(), [0] * 5, [1] * 60, 4, key=0)
    with pytest.raises(ValueError, match="block-causal"):
        evidence_bounds(tiny_policy(block_length=4), [0], [1], 4, key=0)
