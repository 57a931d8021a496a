"""Evidence bounds against their expectation by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import tiny_policy
from rollout.test_blocks import SlowBlocks

from diffpo.models.attention import pack
from diffpo.models.bounds import evidence_bounds
from diffpo.models.policy import Policy
from diffpo.types import Request, Sampler


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
    """Of two tokens one is masked and counts twice, or both are: (c10 + c01) / 2 + c11 / 2."""
    policy, prompt, tokens = tiny_policy(1, shift=shift), [0, 1, 2], [3, 4]
    singles = cost(policy, prompt, tokens, (True, False)) + cost(policy, prompt, tokens, (False, True))
    exact = (singles + cost(policy, prompt, tokens, (True, True))) / 2
    draws = evidence_bounds(policy, prompt, tokens, 20_000, key=1)
    assert math.isclose(-float(draws.mean()), exact, abs_tol=4 * float(draws.std()) / 20_000**0.5)
    assert torch.equal(draws, evidence_bounds(policy, prompt, tokens, 20_000, key=1))


@pytest.mark.parametrize("shift", [0, 1])
def test_of_blocks_each_is_bounded_given_those_before_it(shift: int) -> None:
    prompt, tokens = [0, 1, 2], [3, 4, 5]

    def cost_of(policy: Policy, block: list[int], masked: list[int]) -> float:
        """Of a block's `masked` places, given its others and the blocks before it."""
        asked = Request(tuple(prompt), 0, block[-1] + 1, policy.denoiser.config.block_length or 1, Sampler("top_k", 1))
        state = [policy.mask_id if place in masked else tokens[place] for place in range(block[-1] + 1)]
        hidden = SlowBlocks(policy, asked)(policy, [*prompt, *state])
        laws = [policy.logits(hidden[None, len(prompt) + place - shift])[0].log_softmax(-1) for place in masked]
        return -sum(float(law[tokens[place]]) for law, place in zip(laws, masked, strict=True))

    with torch.no_grad():
        causal = tiny_policy(1, shift=shift, block_length=1)
        exact = sum(cost_of(causal, [place], [place]) for place in range(3))
        torch.testing.assert_close(evidence_bounds(causal, prompt, tokens, 4, key=1), torch.full((4,), -exact))
        pairs = tiny_policy(1, shift=shift, block_length=2)
        first = (cost_of(pairs, [0, 1], [0]) + cost_of(pairs, [0, 1], [1]) + cost_of(pairs, [0, 1], [0, 1])) / 2
        exact = first + cost_of(pairs, [2], [2])
    draws = evidence_bounds(pairs, prompt, tokens, 4_000, key=1)
    assert math.isclose(-float(draws.mean()), exact, abs_tol=4 * float(draws.std()) / 4_000**0.5)


def test_what_has_no_bound() -> None:
    assert evidence_bounds(tiny_policy(), [0], [], 4, key=0).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match="65 tokens exceed the model's 64"):
        evidence_bounds(tiny_policy(), [0] * 5, [1] * 60, 4, key=0)
