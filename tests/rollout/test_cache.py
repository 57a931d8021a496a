"""Approximate caches against a twin that keeps keys and values row by row, and against no cache at all."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
import weakref

import pytest
import torch
from helpers import request, tiny_policy
from rollout.slow_engine import decode, run
from rollout.test_engine import PROMPTS, assert_same

from diffpo.functional.objective import group_advantages
from diffpo.models.pointwise import rotate
from diffpo.models.policy import Policy
from diffpo.rollout.cache import KeyValues, cache_kl
from diffpo.rollout.engine import generate
from diffpo.types import Batch, Completion, Prompt, Request, Rollout, RolloutGroup, Verdict

SHAPES = ({}, {"shift": 1}, {"num_kv_heads": 4, "learned_positions": True}, {"num_layers": 1})


def cached_requests(
    count: int,
    caches: tuple[str, ...] = ("none", "prefix", "dual"),
    blocks: tuple[int, ...] = (4, 3, 12, 1),
    refreshes: tuple[int, ...] = (0, 2, 3),
    rule: str = "top_k:3",
) -> list[Request]:
    """Requests of every cache, sampler and temperature; blocks do not always divide the canvas."""
    samplers = ("entropy_bound:0.7", "top_k:1", "learned", "confidence:0.4", rule, "random:2")
    return [
        request(
            PROMPTS[index % 5],
            index,
            samplers[index % 6],
            gen_length=(8, 10, 12)[index % 3],
            block_length=blocks[index // 2 % len(blocks)],
            temperature=(1.0, 0.0, 0.6)[index // 3 % 3],
            early_exit=index % 4 > 0,
            cache=caches[index % len(caches)],
            refresh_every=refreshes[index // 5 % len(refreshes)],
        )
        for index in range(count)
    ]


class SlowCache:
    """Hidden states of one row, call by call, with keys and values kept where the row's cache keeps them."""

    def __init__(self, policy: Policy, asked: Request) -> None:
        self.policy, self.asked = policy, asked
        self.prompt, self.shift = len(asked.prompt_ids), policy.denoiser.config.shift
        self.block, self.age = -1, 0
        self.store: list[tuple[torch.Tensor, torch.Tensor]] = []

    @torch.no_grad()
    def __call__(self, policy: Policy, sequence: list[int]) -> torch.Tensor:
        canvas, asked = sequence[self.prompt :], self.asked
        size = min(asked.block_length, asked.gen_length)
        block = canvas.index(policy.mask_id) // size
        self.age += 1
        if block != self.block or (asked.refresh_every and self.age >= asked.refresh_every):
            self.age = 0
        first, self.block = block == self.block, block
        if self.age == 0 or asked.cache == "none" or not first:
            fresh = list(range(len(sequence)))
        else:
            start = self.prompt + min(block * size, asked.gen_length - size)
            end = start + size if asked.cache == "dual" else len(sequence)
            fresh = list(range(max(start - self.shift, 0), end))
        return self.forward(torch.tensor(sequence), fresh)

    def forward(self, sequence: torch.Tensor, fresh: list[int]) -> torch.Tensor:
        denoiser, x = self.policy.denoiser, self.policy.denoiser.embed(sequence[fresh])
        if denoiser.places is not None:
            x = x + denoiser.places(torch.tensor(fresh))
        angles = denoiser.angles[fresh][:, None]
        rotation = angles.cos(), angles.sin()
        for layer, block in enumerate(denoiser.blocks):
            attn, h = block.attn, block.attn_norm(x)
            q, k, v = (p(h).unflatten(-1, (-1, attn.head_size)) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
            q, k = rotate(q, *rotation), rotate(k, *rotation)
            if layer == len(self.store):
                self.store.append((k.clone(), v.clone()))
            keys, values = self.store[layer]
            keys[fresh], values[fresh] = k, v
            repeats = q.shape[1] // k.shape[1]
            scores = torch.einsum("qhd,khd->hqk", q, keys.repeat_interleave(repeats, 1)) / attn.head_size**0.5
            mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values.repeat_interleave(repeats, 1))
            x = x + attn.o_proj(mixed.flatten(1))
            h = block.mlp_norm(x)
            x = x + block.down_proj(torch.nn.functional.silu(block.gate_proj(h)) * block.up_proj(h))
        hidden = torch.full((len(sequence), x.shape[1]), torch.nan)
        hidden[fresh] = denoiser.norm(x)
        return hidden


@pytest.mark.parametrize("changes", SHAPES)
def test_cached_rows_decode_as_their_slow_twins(changes: dict[str, int]) -> None:
    policy, requests = tiny_policy(1, learned=True, **changes), cached_requests(60)
    for asked, completion in zip(requests, generate(policy, requests, num_slots=7), strict=True):
        assert_same(completion, decode(policy, asked, SlowCache(policy, asked)))


def test_a_cache_refreshed_in_every_call_is_none() -> None:
    policy = tiny_policy(2, learned=True)
    requests = [dataclasses.replace(r, refresh_every=1) for r in cached_requests(48, ("prefix", "dual"))]
    plain = [dataclasses.replace(asked, cache="none") for asked in requests]
    for cached, uncached in zip(generate(policy, requests, 9), generate(policy, plain, 9), strict=True):
        assert_same(cached, uncached, exact=True)


def test_a_cached_row_does_not_depend_on_its_batch() -> None:
    policy = tiny_policy(3, learned=True, shift=1)
    requests = cached_requests(48)
    expected = [generate(policy, [asked])[0] for asked in requests]
    for slots, order in itertools.product((2, 5, 48), (range(48), range(47, -1, -1))):
        completions = generate(policy, [requests[index] for index in order], slots)
        for index, completion in zip(order, completions, strict=True):
            assert_same(completion, expected[index], exact=True)


def test_keys_are_free_when_the_last_row_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the garbage collector, which does not know that a GPU is full."""
    made, original = [], KeyValues.__init__

    def watched(keys: KeyValues, num_layers: int) -> None:
        original(keys, num_layers)
        made.append(weakref.ref(keys))

    monkeypatch.setattr(KeyValues, "__init__", watched)
    policy, requests = tiny_policy(), [request("012", key, "top_k:2", 8, cache="dual") for key in range(4)]
    gc.collect()
    gc.disable()
    try:
        generate(policy, requests, num_slots=4)
        generate(policy, requests[:2], num_slots=1)
        alive = [keys() for keys in made]
    finally:
        gc.enable()
    assert len(alive) == 3 and alive == [None] * 3


def test_caches_save_tokens() -> None:
    tokens = {}
    for cache in ("none", "prefix", "dual"):
        policy = tiny_policy()
        seen = tokens.setdefault(cache, [])
        policy.denoiser.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(len(args[0])))
        asked = request("0123456" * 4, sampler="top_k:1", gen_length=32, block_length=32, cache=cache, early_exit=False)
        generate(policy, [asked])
    assert set(tokens["none"]) == {60}
    assert tokens["prefix"] == tokens["dual"] == [60] + [32] * 31  # one block: nothing stands behind it


def batch_of(requests: list[Request], completions: list[Completion]) -> Batch:
    groups = [
        RolloutGroup(Prompt("p", ""), asked.prompt_ids, [Rollout(completion, "", Verdict(True, 1.0), 1.0)])
        for asked, completion in zip(requests, completions, strict=True)
    ]
    return Batch.from_groups(groups, group_advantages(torch.ones(len(groups), 1)).flatten())


def test_cache_kl_is_the_divergence_of_the_conditionals() -> None:
    """Against the log-probabilities of every token in the state it was drawn in, row by row without a cache."""
    policy = tiny_policy(5, num_layers=4)
    asked = request("0123", sampler="top_k:1", gen_length=8, block_length=4, cache="dual", early_exit=False)
    requests = [dataclasses.replace(asked, key=key) for key in range(200)]
    completions = generate(policy, requests)
    total = count = 0.0
    for completion in completions[:20]:
        for place, call in enumerate(completion.committed_at.tolist()):
            state = completion.tokens.masked_fill(completion.committed_at >= call, policy.mask_id)
            hidden = run(policy, [*asked.prompt_ids, *state.tolist()])[4 + place]
            law = policy.logits(hidden[None])[0].detach().log_softmax(-1)
            if place < completion.length:
                gap = float(law[completion.tokens[place]] - completion.behaviour_logprobs[place])
                total += math.expm1(gap) - gap
                count += 1
    kl = cache_kl(policy, batch_of(requests[:20], completions[:20]), 1.0)
    torch.testing.assert_close(kl, torch.tensor(total / count), atol=1e-5, rtol=1e-4)
    assert cache_kl(policy, batch_of(requests, completions), 1.0) > 1e-3
    fresh = [dataclasses.replace(asked, refresh_every=1) for asked in requests]
    assert cache_kl(policy, batch_of(fresh, generate(policy, fresh)), 1.0).abs() < 1e-6
