"""The yardsticks answer as the engine does, so that they time the same work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffpo.lab.bench import plain
from diffpo.lab.bench.measure import Tally, in_turn, peak_bytes
from diffpo.lab.bench.steps import joint_step
from diffpo.lab.bench.workloads import batch_of, random_policy, random_requests, score
from diffpo.models.attention import pack, queries_of
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.transformer import TransformerConfig
from diffpo.rollout.engine import generate

SHAPE = TransformerConfig(
    vocab_size=40, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, mlp_size=64, max_length=64
)
SHAPES = {
    "LLaDA": SHAPE,
    "Dream": replace(SHAPE, shift=1, qkv_bias=True),
    "A2D": replace(SHAPE, head_dim=16, qk_norm=True, tied=True),
}
LENGTHS = (3, 9, 5, 1)
CPU = torch.device("cpu")


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("sampler", ["steps:8", "steps:6", "entropy_bound:0.8", "entropy_bound:0"])
def test_greedy_tokens_are_the_engines(sampler: str, family: str) -> None:
    policy = random_policy(SHAPES[family], sharpness=8.0)
    requests = random_requests(policy, LENGTHS, sampler, 16, 8, temperature=0.0)
    ours = generate(policy, requests)
    canvases, calls = plain.decode(policy, requests)
    assert torch.equal(canvases, torch.stack([completion.tokens for completion in ours]))
    assert calls >= max(completion.nfe for completion in ours)


@pytest.mark.parametrize("family", SHAPES)
def test_mean_field_log_probabilities_are_ours(family: str) -> None:
    policy = random_policy(SHAPES[family], sharpness=20.0)
    requests = random_requests(policy, LENGTHS, "steps:8", 16, 8, group=2)
    batch = batch_of(requests, generate(policy, requests))
    ids, real = plain.padded(policy, requests)
    theirs = plain.mean_field_logprobs(policy, ids, real, batch.tokens, 0.7)
    ours = surrogate_logprobs(policy, batch, torch.zeros(len(batch), 1, dtype=torch.int64), 0.7)
    mask = batch.loss_mask
    torch.testing.assert_close(ours[mask], theirs[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noise", [torch.float64, None])
def test_gumbel_noise_draws_from_the_softmax(noise: torch.dtype | None) -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0])
    drawn = plain.gumbel_argmax(logits.expand(40_000, 4), 0.8, noise, torch.Generator().manual_seed(0))
    shares = drawn.bincount(minlength=4) / len(drawn)
    # the published formula: exp(logit) / E^T with E exponential is a draw at temperature T
    torch.testing.assert_close(shares, (logits / 0.8).softmax(-1), atol=0.01, rtol=0)


def test_padding_is_never_seen() -> None:
    policy = random_policy(SHAPE)
    requests = random_requests(policy, LENGTHS, "steps:8", 16, 8)
    ids, real = plain.padded(policy, requests)
    logits = plain.all_logits(policy, ids, real)
    other = plain.all_logits(policy, ids.masked_fill(~real, 7), real)
    assert torch.equal(logits[real], other[real])


def test_steps_of_both_change_the_weights() -> None:
    policy, other = random_policy(SHAPE, sharpness=20.0), random_policy(SHAPE, sharpness=20.0)
    before = policy.denoiser.head.weight.detach().clone()
    requests = random_requests(policy, LENGTHS, "steps:8", 16, 8, group=2)
    joint_step(policy, requests, 2, 2)()
    plain.train_step(other, requests, 2, torch.optim.AdamW(other.denoiser.parameters(), lr=1e-3))
    assert not torch.equal(policy.denoiser.head.weight, before)
    assert not torch.equal(other.denoiser.head.weight, before)


def test_peaks_are_those_of_tensors_alive() -> None:
    def work() -> None:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second + 1
        del second, third

    assert peak_bytes(work, CPU) == 8000


def test_turns_are_taken_and_the_first_of_short_work_does_not_count() -> None:
    seen: list[str] = []
    taken = in_turn({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3, CPU)
    assert "".join(seen) == "aabb" + "abab" and set(taken) == {"a", "b"}


@pytest.mark.parametrize("family", ["LLaDA", "A2D"])
@pytest.mark.parametrize("wanted", [12, 5])
def test_operations_are_those_that_torch_counts(wanted: int, family: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    shape = SHAPES[family]
    policy = random_policy(shape)
    rows, length = 3, 12
    lengths, sizes = torch.full((rows,), length), torch.full((rows,), wanted)
    ids, packing = pack(torch.zeros(rows, length, dtype=torch.int64), lengths, sizes)
    asked = queries_of(packing, torch.arange(wanted).expand(rows, -1), sizes)[0]
    with FlopCounterMode(display=False) as counter, Tally(policy) as tally, torch.no_grad():
        policy.denoiser.head(policy.denoiser(ids, packing, asked))
    # torch's counter leaves attention on a CPU out
    assert tally.linears + tally.head == counter.get_total_flops()
    assert tally.attention == 4 * rows * length * shape.query_size * ((SHAPE.num_layers - 1) * length + wanted)
    assert tally.rows == rows


def test_scoring_leaves_gradients() -> None:
    policy = random_policy(SHAPE)
    requests = random_requests(policy, LENGTHS[:1], "steps:8", 16, 8, group=4)
    score(policy, batch_of(requests, generate(policy, requests)))
    assert all(parameter.grad is not None for parameter in policy.denoiser.parameters())
