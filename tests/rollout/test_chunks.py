"""Logits of a large vocabulary are made by chunks; the chunks change nothing."""

from __future__ import annotations

import pytest
import torch
from helpers import request, tiny_policy

from diffpo.rollout import call
from diffpo.rollout.engine import generate


@pytest.mark.parametrize("sampler", ["entropy_bound:0.5", "confidence:0.6", "random:2"])
def test_chunks_of_logits_change_nothing(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    requests = [request(key=key, sampler=sampler, gen_length=16) for key in range(9)]
    whole = generate(policy, requests)
    monkeypatch.setitem(call.MAX_LOGITS, "cpu", 1)  # 9 rows of 16 positions then take five chunks of 32
    for ours, theirs in zip(generate(policy, requests), whole, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.committed_at, theirs.committed_at)
        assert torch.equal(ours.behaviour_logprobs, theirs.behaviour_logprobs)
        assert torch.equal(ours.entropies, theirs.entropies)
