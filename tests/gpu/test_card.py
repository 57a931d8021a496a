"""What only a card can say: the CPU's answers on it, and no wait of the host in a call. `make gpu` runs these."""

from __future__ import annotations

import pytest
import torch
from helpers import request, tiny_policy
from rollout.test_engine import mixed_requests

from diffpo.models.attention import pack
from diffpo.models.experts import ExpertsConfig
from diffpo.models.policy import Policy
from diffpo.rollout import engine
from diffpo.rollout.engine import generate
from diffpo.types import Completion, Request

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]
RULES = ("entropy_bound:0.7", "learned", "confidence:0.4", "top_k:3", "steps:5", "random:2")


@pytest.fixture(autouse=True)
def exact_products() -> None:
    """fp32 products in fp32, torch's default."""
    torch.backends.cuda.matmul.allow_tf32 = False


def both(policy: Policy, requests: list[Request]) -> tuple[list[Completion], list[Completion]]:
    """What the card decodes, and what the CPU does."""
    expected = generate(policy.to("cpu"), requests, 9)
    return generate(policy.to("cuda"), requests, 9), expected


@pytest.mark.parametrize("head", ["prompt", "state", "bernoulli"])
def test_tokens_in_fp32_are_the_cpus(head: str) -> None:
    """But where a draw or a threshold lies within rounding of the next: in one row of twenty at most."""
    completions, expected = both(tiny_policy(1, learned=head), mixed_requests(84))
    same = [
        torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.committed_at, theirs.committed_at)
        for ours, theirs in zip(completions, expected, strict=True)
    ]
    assert sum(same) >= 0.95 * len(same)
    for ours, theirs, equal in zip(completions, expected, same, strict=True):
        if not equal:
            continue
        torch.testing.assert_close(ours.behaviour_logprobs, theirs.behaviour_logprobs, atol=1e-3, rtol=1e-3)


def test_log_probabilities_in_bf16_are_the_cpus_to_its_rounding() -> None:
    """Of tokens committed by the first call, before one rounding can have led to another token."""
    policy = tiny_policy(num_heads=2, num_kv_heads=1)
    policy.denoiser.bfloat16()
    completions, expected = both(policy, [request("0123"[: 1 + key % 4], key, "top_k:4") for key in range(32)])
    compared = 0
    for ours, theirs in zip(completions, expected, strict=True):
        at = (ours.committed_at == 1) & (theirs.committed_at == 1) & (ours.tokens == theirs.tokens)
        torch.testing.assert_close(ours.behaviour_logprobs[at], theirs.behaviour_logprobs[at], atol=0.1, rtol=0.05)
        compared += int(at.sum())
    assert compared > 32


@pytest.mark.parametrize("sampler", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_call_stops_the_host(sampler: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises where an operator would; `mark_finished` ends each call, so the second begins after the first."""
    experts = ExpertsConfig(8, 2, 16, 16) if dtype == torch.bfloat16 and sampler == "learned" else None
    policy = tiny_policy(learned=True, num_heads=2, num_kv_heads=1, experts=experts)
    policy.denoiser.to(dtype)
    policy.to("cuda")
    requests = [request("012", key, sampler, 8, early_exit=False) for key in range(6)]
    generate(policy, requests)  # kernels are loaded
    original = engine.mark_finished

    def watched(*given):  # type: ignore[no-untyped-def]
        torch.cuda.set_sync_debug_mode("error")
        original(*given)

    monkeypatch.setattr(engine, "mark_finished", watched)
    try:
        completions = generate(policy, requests)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(completion.nfe >= 1 for completion in completions)


def test_gradients_in_bf16_are_finite_and_like_the_cpus() -> None:
    """The kernel for rows of any length, backwards."""
    policy = tiny_policy(num_heads=2, num_kv_heads=1)
    policy.use_master_weights()
    policy.denoiser.compute_dtype = torch.bfloat16
    ids = torch.arange(12) % 7
    gradients = {}
    for device in ("cpu", "cuda"):
        policy.to(device)
        policy.denoiser.zero_grad()
        tokens, packing = pack(ids.view(2, 6).to(device), torch.tensor([6, 4]).to(device))
        policy.denoiser(tokens, packing).float().square().mean().backward()
        gradients[device] = torch.cat([p.grad.flatten().cpu() for p in policy.denoiser.blocks.parameters()])
    cosine = torch.nn.functional.cosine_similarity(gradients["cpu"], gradients["cuda"], dim=0)
    assert float(cosine) > 0.99
