"""Block-causal attention: the exact cache against none and against a slow twin, and likelihoods against the engine."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from helpers import request, tiny_policy
from rollout.slow_engine import decode
from rollout.test_cache import batch_of, cached_requests
from rollout.test_engine import PROMPTS, assert_same

from diffpo.functional.latents import draw_batch_cuts
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.rollout.engine import Committed, Engine, Finished, generate
from diffpo.types import Completion, Request

SHAPES = (
    {"block_length": 4},
    {"block_length": 4, "blocks_from": "row"},
    {"block_length": 4, "shift": 1},
    {"block_length": 4, "blocks_from": "row", "shift": 1, "num_kv_heads": 4, "learned_positions": True},
    {"block_length": 4, "causal_context": True},
    {"block_length": 4, "causal_context": True, "blocks_from": "row", "shift": 1},
)
NAMES = ("canvas", "row", "shift", "row, shift", "causal", "causal, row, shift")


def block_requests(count: int, caches: tuple[str, ...] = ("exact",)) -> list[Request]:
    """The same, with blocks that may exceed the canvas and a rule that counts them."""
    return cached_requests(count, caches, blocks=(4, 3, 16, 1), refreshes=(0,), rule="steps:12")


def block_of(policy: Policy, asked: Request, position: int) -> int:
    """The block of a position of the row, by counting."""
    start = len(asked.prompt_ids)
    if policy.denoiser.config.blocks_from == "row":
        return position // asked.block_length
    return (position - start) // asked.block_length


class SlowBlocks:
    """Hidden states of one row: a full mask, written out position by position, and no cache."""

    def __init__(self, policy: Policy, asked: Request) -> None:
        self.asked = asked

    @torch.no_grad()
    def __call__(self, policy: Policy, sequence: list[int]) -> torch.Tensor:
        denoiser, places = policy.denoiser, range(len(sequence))
        block = [block_of(policy, self.asked, place) for place in places]
        canvas = sequence[len(self.asked.prompt_ids) :]
        active = block[len(self.asked.prompt_ids) + canvas.index(policy.mask_id)]
        alone = [denoiser.config.causal_context and number < active for number in block]
        last = [query if alone[query] else max(p for p in places if block[p] == block[query]) for query in places]
        unseen = torch.tensor([[key > last[query] for key in places] for query in places])
        x = denoiser.embed(torch.tensor(sequence))
        if denoiser.places is not None:
            x = x + denoiser.places.weight[: len(sequence)]
        angles = denoiser.angles[: len(sequence)][:, None]
        for layer in denoiser.blocks:
            attn, h = layer.attn, layer.attn_norm(x)
            q, k, v = (p(h).unflatten(-1, (-1, attn.head_size)) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
            q, k = (attn.pointwise.rotate(t, angles.cos(), angles.sin()) for t in (attn.q_norm(q), attn.k_norm(k)))
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
            scores = torch.einsum("qhd,khd->hqk", q, k) / attn.head_size**0.5
            weights = scores.masked_fill(unseen, -torch.inf).softmax(-1)
            x = x + attn.o_proj(torch.einsum("hqk,khd->qhd", weights, v).flatten(1))
            h = layer.mlp_norm(x)
            x = x + layer.down_proj(torch.nn.functional.silu(layer.gate_proj(h)) * layer.up_proj(h))
        return denoiser.norm(x)


@pytest.mark.parametrize("changes", SHAPES, ids=NAMES)
@pytest.mark.parametrize("cache", ["exact", "none"])
def test_rows_decode_as_their_slow_twins(changes: dict, cache: str) -> None:
    policy, requests = tiny_policy(1, learned=True, **changes), block_requests(24, (cache,))
    for asked, completion in zip(requests, generate(policy, requests, num_slots=7), strict=True):
        assert_same(completion, decode(policy, asked, SlowBlocks(policy, asked)))


@pytest.mark.parametrize("steps", [8, 16])
def test_a_number_of_calls_does_not_hang_on_where_in_a_block_the_canvas_begins(steps: int) -> None:
    policy, settings = tiny_policy(block_length=4, blocks_from="row"), {"block_length": 4, "early_exit": False}
    rows = [request("0" * length, 0, f"steps:{steps}", 16, **settings) for length in range(4, 9)]
    calls = [completion.nfe for completion in generate(policy, rows)]
    assert calls[0] == calls[-1] == steps and all(steps <= made <= steps + 1 for made in calls)  # 1 more: a torn block


@pytest.mark.parametrize("changes", SHAPES, ids=NAMES)
def test_an_exact_cache_changes_no_token_and_no_call(changes: dict) -> None:
    policy, requests = tiny_policy(2, learned="state", **changes), block_requests(48)
    plain = [dataclasses.replace(asked, cache="none") for asked in requests]
    for cached, uncached in zip(generate(policy, requests, 9), generate(policy, plain, 9), strict=True):
        assert torch.equal(cached.tokens, uncached.tokens) and torch.equal(cached.committed_at, uncached.committed_at)
        assert_same(cached, uncached)


def test_a_row_does_not_depend_on_its_batch() -> None:
    policy = tiny_policy(3, learned=True, block_length=4, blocks_from="row", shift=1)
    requests = block_requests(24, ("exact", "none", "exact"))
    expected = [generate(policy, [asked])[0] for asked in requests]
    for slots, order in itertools.product((5, 24), (range(24), range(23, -1, -1))):
        completions = generate(policy, [requests[index] for index in order], slots)
        for index, completion in zip(order, completions, strict=True):
            assert_same(completion, expected[index], exact=True)


def test_weights_that_change_on_the_way_leave_nothing_stale() -> None:
    policy, other = tiny_policy(4, block_length=4), tiny_policy(5, block_length=4)
    tensors = {name: parameter.detach().clone() for name, parameter in other.denoiser.named_parameters()}
    asked = request("0123", sampler="top_k:1", gen_length=12, block_length=4, early_exit=False)
    found: dict[str, Completion] = {}
    for cache in ("none", "exact"):
        policy = tiny_policy(4, block_length=4)
        engine = Engine(policy)
        engine.submit(dataclasses.replace(asked, cache=cache))
        for _ in range(6):
            engine.step()
        engine.load_weights(tensors, version=1)
        (event,) = [event for event in engine.run() if isinstance(event, Finished)]
        found[cache] = event.completion
    assert found["exact"].versions == ((1, 0), (7, 1))
    assert_same(found["exact"], found["none"])


def test_a_call_computes_its_block_and_the_first_the_one_before_it_too() -> None:
    policy, seen = tiny_policy(block_length=4), []
    policy.denoiser.register_forward_pre_hook(lambda _, args: seen.append(args[1].runs))
    asked = request("0123456", sampler="top_k:2", gen_length=12, block_length=4, early_exit=False, cache="exact")
    generate(policy, [asked])
    assert [(run.length, run.fresh, run.masked) for (run,) in seen] == [
        *((11, 11, True), (11, 4, False), (15, 8, True), (15, 4, False), (19, 8, True), (19, 4, False))
    ]


def scored(policy: Policy, requests: list[Request], num_latents: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Surrogate log-probs of what the engine decodes, and those that it recorded; the tokens of the loss."""
    batch = batch_of(requests, generate(policy, requests))
    keys = torch.arange(len(batch))
    found = surrogate_logprobs(policy, batch, draw_batch_cuts(batch, num_latents, keys), 1.0)
    return found[batch.loss_mask], batch.behaviour_logprobs[batch.loss_mask]


@pytest.mark.parametrize("changes", SHAPES, ids=NAMES)
def test_as_many_cuts_as_calls_are_the_behaviour(changes: dict) -> None:
    """Importance weights are 1 at m = T: each token is scored in the very state that it was drawn in."""
    policy = tiny_policy(6, **changes)
    kinds = [("top_k:1", 4), ("entropy_bound:0.7", 5), ("random:2", 3), ("top_k:2", 16)]
    requests = [
        request(PROMPTS[index % 5], index, *(kinds[index % 4][:1]), gen_length=(12, 10)[index % 2], cache="exact",
                block_length=kinds[index % 4][1], early_exit=index % 3 > 0)
        for index in range(24)
    ]  # fmt: skip
    found, behaviour = scored(policy, requests, 0)
    torch.testing.assert_close(found, behaviour, atol=2e-5, rtol=1e-4)
    fewer, _ = scored(policy, requests, 1)
    assert (fewer - behaviour).abs().max() > 1e-2


def test_a_block_is_scored_given_its_cut_and_the_clean_blocks_before_it() -> None:
    """Token by token: a sequence with everything before the block, the block as it stood, and nothing behind."""
    policy = tiny_policy(7, block_length=4, blocks_from="row", shift=1)
    requests = [request(PROMPTS[i % 5], i, "random:1", gen_length=10, block_length=4) for i in range(10)]
    completions = generate(policy, requests)
    batch = batch_of(requests, completions)
    cuts = draw_batch_cuts(batch, 2, torch.arange(len(batch)))
    found = surrogate_logprobs(policy, batch, cuts, 1.0)
    for row, (asked, completion) in enumerate(zip(requests, completions, strict=True)):
        start = len(asked.prompt_ids)
        blocks = [block_of(policy, asked, start + place) for place in range(10)]
        for place in range(completion.length):
            call = int(completion.committed_at[place])
            tau = max(int(cut) for cut in cuts[row, place] if cut < call)
            state = [
                int(token) if blocks[i] < blocks[place] or int(completion.committed_at[i]) <= tau else policy.mask_id
                for i, token in enumerate(completion.tokens)
                if blocks[i] <= blocks[place]
            ]
            hidden = SlowBlocks(policy, asked)(policy, [*asked.prompt_ids, *state])[max(start + place - 1, 0)]
            law = policy.logits(hidden[None])[0].log_softmax(-1)
            torch.testing.assert_close(found[row, place], law[completion.tokens[place]], atol=2e-5, rtol=1e-4)


def test_what_a_cache_is_for_is_one_line() -> None:
    with pytest.raises(ValueError, match="'exact' is for models whose attention is block-causal"):
        generate(tiny_policy(), [request(cache="exact")])
    with pytest.raises(ValueError, match="there is one that is exact"):
        generate(tiny_policy(block_length=4), [request(cache="prefix")])
    with pytest.raises(ValueError, match="choose among none, exact"):
        generate(tiny_policy(), [request(cache="all")])


def test_a_canvas_below_a_block_is_not_left() -> None:
    """The engine's canvases are as wide as the widest that was there; a row commits positions of its own alone."""
    policy = tiny_policy(3, block_length=4, blocks_from="row")
    engine = Engine(policy, num_slots=2, stream=True)
    for key, length in enumerate((8, 1, 3, 2)):
        ticket, told = engine.submit(request("01", key, gen_length=length, block_length=4)), list[int]()
        for event in engine.run():
            if isinstance(event, Committed):
                told += event.positions.tolist()
        assert sorted(told) == list(range(length)), ticket
