"""The decoding engine against its slow twin, and rows that depend on nothing but their request."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch
from helpers import chi_square_z, request, tiny_policy
from rollout.slow_engine import decode, run

from diffpo.functional.prediction import ban
from diffpo.models.attention import Packing
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.types import Completion, Request, Sampler

SAMPLERS = (
    "entropy_bound:0",
    "entropy_bound:0.7",
    "entropy_bound:1e9",
    "confidence:0",
    "confidence:0.4",
    "confidence:1",
    "top_k:1",
    "top_k:3",
    "top_k:99",
    "margin:2",
    "steps:1",
    "steps:5",
    "steps:99",
    "random:2",
    "learned",
)
PROMPTS = ("012", "0123456", "6", "3131", "012")


def assert_same(ours: Completion, theirs: Completion, exact: bool = False) -> None:
    """Identical integers; numbers identical, or within rounding."""
    for field in dataclasses.fields(Completion):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(mine, torch.Tensor) and (exact or not mine.is_floating_point()):
            assert torch.equal(mine, other), field.name
        elif isinstance(mine, torch.Tensor | float):
            atol = 1e-5 if field.name == "actions" else 2e-6  # sums of features that weights of about 3 magnify
            torch.testing.assert_close(mine, other, atol=atol, rtol=2e-5, msg=lambda text, name=field.name: name + text)
        else:
            assert mine == other, field.name


def mixed_requests(count: int) -> list[Request]:
    """Requests that differ in every setting."""
    return [
        request(
            PROMPTS[index % 5],
            index,
            SAMPLERS[index % len(SAMPLERS)],
            gen_length=(8, 5, 12)[index % 3],
            block_length=(12, 4, 3, 1)[index % 4],
            temperature=(1.0, 0.0, 0.4, 1.7)[index // 2 % 4],
            entropy_temperature=(1.0, 0.5)[index // 3 % 2],
            early_exit=index % 7 < 4,
            explore=index % 2 == 0,
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_each_sampler_decodes_as_its_slow_twin(sampler: str, temperature: float) -> None:
    check_against_twins(tiny_policy(learned=True), sampler, temperature)


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("head", ["state", "bernoulli"])
def test_a_decision_a_call_decodes_as_its_slow_twin(head: str, shift: int) -> None:
    check_against_twins(tiny_policy(learned=head, shift=shift), "learned", 1.3)


def check_against_twins(policy: Policy, sampler: str, temperature: float) -> None:
    requests = [
        request(prompt, key, sampler, gen_length=10, block_length=block, temperature=temperature, early_exit=early_exit)
        for key, (prompt, block, early_exit) in enumerate(itertools.product(PROMPTS[:3], (10, 4), (True, False)))
    ]
    for asked, completion in zip(requests, generate(policy, requests), strict=True):
        assert_same(completion, decode(policy, asked))


@pytest.mark.parametrize("changes", [{}, {"shift": 1}, {"learned_positions": True}, {"num_kv_heads": 4}])
@pytest.mark.parametrize("head", ["prompt", "state", "bernoulli"])
def test_mixed_requests_decode_as_their_slow_twins(changes: dict[str, int], head: str) -> None:
    policy = tiny_policy(1, learned=head, **changes)
    requests = mixed_requests(84)
    completions = generate(policy, requests, num_slots=9)
    for asked, completion in zip(requests, completions, strict=True):
        assert_same(completion, decode(policy, asked))
    early = [c for asked, c in zip(requests, completions, strict=True) if asked.early_exit and c.length < len(c.tokens)]
    assert len(early) > 5, "too few rows ended early for this test to mean anything"


@pytest.mark.parametrize("head", ["prompt", "state", "bernoulli"])
def test_a_row_does_not_depend_on_its_batch(head: str) -> None:
    """Alone, in small and large batches, permuted, and through few slots: the same bits."""
    policy = tiny_policy(2, learned=head)
    requests = mixed_requests(64)
    expected = [generate(policy, [asked])[0] for asked in requests]
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    permuted = generate(policy, [requests[i] for i in order])
    ways = {
        "batches of 7": [c for start in range(0, 64, 7) for c in generate(policy, requests[start : start + 7])],
        "one batch": generate(policy, requests),
        "permuted": [permuted[order.index(i)] for i in range(64)],
        **{f"{slots} slots": generate(policy, requests, num_slots=slots) for slots in (1, 5, 64)},
    }
    for completions in ways.values():
        for alone, together in zip(expected, completions, strict=True):
            assert_same(alone, together, exact=True)


def test_a_chance_a_position_does_not_depend_on_the_windows_beside_it() -> None:
    """Blocks of 1 to 12 positions in one batch, through few slots and alone: the same bits, and the slow twin's."""
    policy = tiny_policy(1, learned="bernoulli")
    requests = [dataclasses.replace(asked, sampler=Sampler("learned")) for asked in mixed_requests(36)]
    together, through_five = generate(policy, requests), generate(policy, requests, num_slots=5)
    for asked, one, other in zip(requests, together, through_five, strict=True):
        assert_same(one, other, exact=True)
        assert_same(one, generate(policy, [asked])[0], exact=True)
        assert_same(one, decode(policy, asked))
    sizes = [int(call.sum()) for completion in together for call in completion.actions]
    assert 1 in sizes and max(sizes) > 3, "the chances are too low or too high for this test to mean anything"


@pytest.mark.parametrize("num_slots", [1, 3, 6])
def test_rows_of_a_group_do_not_mix_while_one_starts_and_another_runs(num_slots: int) -> None:
    policy = tiny_policy()
    group = [request("01", key, f"top_k:{1 + key % 3}") for key in range(12)]
    for asked, completion in zip(group, generate(policy, group, num_slots), strict=True):
        assert_same(completion, decode(policy, asked))


class CountingDenoiser(torch.nn.Module):
    """Counts the rows and tokens that go through a denoiser."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.config, self.head = denoiser, denoiser.config, denoiser.head
        self.compute_dtype = denoiser.compute_dtype
        self.calls: list[tuple[int, int]] = []

    def forward(self, ids: torch.Tensor, packing: Packing, *rest: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(packing.starts), len(ids)))
        return self.inner(ids, packing, *rest)


def counting_policy(**changes) -> Policy:
    policy = tiny_policy(**changes)
    policy.denoiser = CountingDenoiser(policy.denoiser)
    return policy


def test_a_group_shares_its_first_call() -> None:
    policy = counting_policy()
    two_groups = [
        request(prompt, key, "top_k:8", gen_length=16, early_exit=False)
        for prompt in ("01", "23456")
        for key in range(5)
    ]
    generate(policy, two_groups)
    # two prompts once, then every row on its own; 16 positions, 8 a call
    assert policy.denoiser.calls == [(2, 2 + 5 + 32), (10, 5 * (2 + 5 + 32))]


def test_choosing_a_threshold_costs_no_call() -> None:
    policy = counting_policy(learned=True)
    completion = generate(policy, [request(sampler="learned")])[0]
    assert len(policy.denoiser.calls) == completion.nfe


def test_finished_rows_leave_and_waiting_ones_take_their_place() -> None:
    policy = counting_policy()
    requests = [
        request("012"[: 1 + key % 3], key, f"top_k:{8 * (1 + key % 4)}", gen_length=32, early_exit=False)
        for key in range(12)
    ]
    completions = generate(policy, requests, num_slots=4)
    rows = [rows for rows, _ in policy.denoiser.calls]
    assert max(rows) <= 4
    # no row is denoised after its last call, and only first calls are shared
    calls = sum(completion.nfe for completion in completions)
    assert calls - len(requests) < sum(rows) <= calls
    assert len(rows) < calls / 2


def test_mask_and_padding_are_never_emitted() -> None:
    """Even by a model that wants nothing else."""
    policy = tiny_policy()
    with torch.no_grad():
        policy.denoiser.head.weight[policy.mask_id] *= 5
        policy.denoiser.head.weight[policy.tokenizer.vocab_size :] *= 5
    completions = generate(policy, mixed_requests_without_a_head(150))
    tokens = torch.cat([completion.tokens for completion in completions])
    assert tokens.max() <= policy.eos_id
    logprobs = torch.cat([completion.behaviour_logprobs for completion in completions])
    assert logprobs.isfinite().all() and (logprobs <= 0).all()


def mixed_requests_without_a_head(count: int) -> list[Request]:
    return [asked for asked in mixed_requests(count) if asked.sampler.rule != "learned"]


def test_an_early_exit_is_the_full_run_up_to_the_eos() -> None:
    policy = tiny_policy(3)
    asked = mixed_requests_without_a_head(120)
    early = generate(policy, [dataclasses.replace(r, early_exit=True) for r in asked])
    full = generate(policy, [dataclasses.replace(r, early_exit=False) for r in asked])
    shorter = 0
    for cut, whole in zip(early, full, strict=True):
        stands = whole.committed_at <= cut.nfe
        assert cut.length == whole.length and stands[: cut.length].all()
        assert torch.equal(cut.tokens[stands], whole.tokens[stands])
        assert torch.equal(cut.committed_at[stands], whole.committed_at[stands])
        assert torch.equal(cut.behaviour_logprobs[stands], whole.behaviour_logprobs[stands])
        assert (cut.tokens[~stands] == policy.eos_id).all() and (cut.committed_at[~stands] == cut.nfe).all()
        assert cut.nfe == cut.nfe_until_eos == whole.nfe_until_eos <= whole.nfe
        shorter += cut.nfe < whole.nfe
    assert shorter > 5, "too few rows ended early for this test to mean anything"


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_drawn_tokens_follow_the_softmax(temperature: float) -> None:
    """The first call of many keys, each position on its own."""
    policy, count = tiny_policy(4), 3000
    asked = request(sampler="top_k:99", gen_length=4, temperature=temperature, early_exit=False)
    requests = [dataclasses.replace(asked, key=key) for key in range(count)]
    tokens = torch.stack([completion.tokens for completion in generate(policy, requests, num_slots=3000)])
    hidden = run(policy, [*asked.prompt_ids, *[policy.mask_id] * 4])[3:]
    law = (ban(policy.denoiser.head(hidden), policy.banned) / temperature).softmax(-1)
    for place in range(4):
        assert abs(chi_square_z(tokens[:, place].bincount(minlength=law.shape[1]), law[place].detach())) < 4
    # and two positions of one call are independent
    pairs = (tokens[:, 0] * law.shape[1] + tokens[:, 1]).bincount(minlength=law.shape[1] ** 2)
    assert abs(chi_square_z(pairs, torch.outer(law[0], law[1]).flatten().detach())) < 4


@pytest.mark.parametrize("level", ["prompt", "state"])
def test_a_learned_threshold_is_that_of_the_head(level: str) -> None:
    policy = tiny_policy(learned=level)
    head = policy.sampler_head
    requests = [request(PROMPTS[key % 5], key, "learned", explore=key % 4 > 0) for key in range(40)]
    completions = generate(policy, requests)
    for asked, completion in zip(requests, completions, strict=True):
        mean, actions = head(completion.features).detach(), completion.actions
        assert len(actions) == (1 if level == "prompt" else completion.nfe)
        torch.testing.assert_close(completion.gamma, float(head.gamma(actions).mean()))
        torch.testing.assert_close(completion.action_logprobs, head.logprob(actions, mean))
        assert asked.explore != torch.equal(actions, mean)
    explored = [a for c, asked in zip(completions, requests, strict=True) if asked.explore for a in c.actions]
    assert len({*map(float, explored)}) == len(explored)
    if level == "state":
        assert max(len(completion.actions) for completion in completions) > 2


def test_a_fixed_bound_is_recorded_and_other_rules_have_none() -> None:
    policy = tiny_policy()
    bounded, other = generate(policy, [request(sampler="entropy_bound:0.5"), request(sampler="top_k:2")])
    assert bounded.gamma == 0.5 and other.gamma is None
    assert bounded.actions is bounded.action_logprobs is bounded.features is None


def test_a_learned_threshold_needs_a_head() -> None:
    with pytest.raises(ValueError, match="no sampler head"):
        generate(tiny_policy(), [request(sampler="learned")])


def test_a_learned_threshold_needs_a_prompt() -> None:
    policy = tiny_policy(learned=True)
    with pytest.raises(ValueError, match="a prompt is empty"):
        generate(policy, [request(sampler="learned"), request(prompt="", sampler="learned")])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gen_length": 0}, "gen_length must be >= 1, got 0"),
        ({"block_length": 0}, "block_length must be >= 1, got 0"),
        ({"refresh_every": -1}, "refresh_every must be >= 0, got -1"),
        ({"prompt_ids": (0, 99)}, r"prompt_ids: no token \[99\]: the model's ids are 0 to 11"),
        ({"suffix_ids": (-1,)}, r"suffix_ids: no token \[-1\]"),
        ({"temperature": math.nan}, "temperature must be 0, which is greedy, or between"),
        ({"entropy_temperature": 0.0}, "entropy_temperature must be between"),
        ({"sampler": Sampler("top_k", 0)}, "write top_k:NUMBER"),  # no call would commit anything
        ({"sampler": Sampler("entropy_bound", math.nan)}, "write entropy_bound:NUMBER"),
        ({"key": 2**63}, "key must be a signed 64-bit integer"),
    ],
)
def test_a_request_that_cannot_be_decoded_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generate(tiny_policy(), [dataclasses.replace(request(), **changes)])


def test_no_requests_are_no_completions() -> None:
    assert generate(tiny_policy(), []) == []
