"""Calls made again: none changes by the policy that made them, and another policy chooses as the slow twin does."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import prompt_of, request, tiny_policy
from rollout import slow_engine
from rollout.test_blocks import SlowBlocks
from rollout.test_cache import batch_of
from rollout.test_engine import PROMPTS

from diffpo.config import RolloutConfig
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.rollout.replay import changed_sets, refreshed, replay
from diffpo.types import Batch, Request

SHAPES = {
    "rows": {},
    "shift": {"shift": 1},
    "blocks": {"block_length": 4, "blocks_from": "row"},
    "causal": {"block_length": 4, "causal_context": True},
}
SAMPLERS = (
    *("entropy_bound:0.7", "confidence:0.4", "top_k:1", "top_k:3", "margin:2", "steps:6", "random:2"),
    *("learned prompt", "learned state", "learned bernoulli"),
)
BLOCK = 4


def rolled_out(policy: Policy, sampler: str, rows: int = 10, **changes) -> tuple[RolloutConfig, list[Request], Batch]:  # type: ignore[no-untyped-def]
    """Rollouts of canvases that are not equally long, in blocks, as a training batch."""
    config = RolloutConfig(sampler=sampler, block_length=BLOCK, entropy_temperature=0.8)
    config = replace(config, cache="exact" if policy.denoiser.config.block_length else "none")
    config = replace(config, **changes)
    settings = {"temperature": config.temperature, "entropy_temperature": config.entropy_temperature}
    requests = [
        request(
            *(PROMPTS[row % 5], row, sampler),
            gen_length=12 if row % 3 else 10,
            block_length=BLOCK,
            cache=config.cache,
            refresh_every=config.cache_refresh,
            **settings,
        )
        for row in range(rows)
    ]
    return config, requests, batch_of(requests, generate(policy, requests, num_slots=4))


def every_call(batch: Batch) -> tuple[Batch, torch.Tensor]:
    """A row for each call of each row, and the calls."""
    rows = torch.arange(len(batch)).repeat_interleave(batch.nfe)
    return batch.take(rows), torch.cat([torch.arange(1, int(nfe) + 1) for nfe in batch.nfe])


def policy_of(sampler: str, shape: str, seed: int = 1) -> tuple[Policy, str]:
    rule, _, head = sampler.partition(" ")
    return tiny_policy(seed, learned=head or False, **SHAPES[shape]), rule


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_set_changes_where_no_weight_has(sampler: str, shape: str) -> None:
    policy, rule = policy_of(sampler, shape)
    config, requests, batch = rolled_out(policy, rule)
    rows, calls = every_call(batch)
    assert len(calls) > 2 * len(requests) and not changed_sets(policy, rows, calls, config).any()


def test_rows_that_exit_early_are_compared_up_to_their_end() -> None:
    policy = tiny_policy(5)
    config, _, batch = rolled_out(policy, "top_k:1", rows=60)
    ended = (batch.committed_at == batch.nfe[:, None]).sum(-1) > 1  # the last call has filled the rest
    assert ended.sum() > 2
    rows, calls = every_call(batch.take(ended.nonzero().squeeze(-1)))
    assert not changed_sets(policy, rows, calls, config).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_policy_chooses_as_the_slow_twin_does(sampler: str, shape: str) -> None:
    policy, rule = policy_of(sampler, shape)
    config, requests, batch = rolled_out(policy, rule)
    other, _ = policy_of(sampler, shape, seed=2)
    rows, calls = every_call(batch)
    asked = [requests[row] for row in torch.arange(len(batch)).repeat_interleave(batch.nfe).tolist()]
    found = replay(other, rows, calls, config)
    for row, call in enumerate(calls.tolist()):
        assert set(found[row].nonzero().flatten().tolist()) == chosen_by_twin(other, asked[row], rows, row, call)
    assert changed_sets(other, rows, calls, config).any() != rule.startswith("random")


def chosen_by_twin(policy: Policy, asked: Request, batch: Batch, row: int, call: int) -> set[int]:
    """What a call commits: the canvas written out, one row by itself, the rule in Python."""
    size, prompt = asked.gen_length, prompt_of(batch, row)
    at, tokens = batch.committed_at[row].tolist(), batch.tokens[row].tolist()
    canvas = [tokens[place] if at[place] < call else policy.mask_id for place in range(size)]
    shape = policy.denoiser.config
    offset = len(prompt) % BLOCK if shape.blocks_from == "row" and shape.block_length else 0
    block = [(place + offset) // BLOCK for place in range(size)]
    active = block[canvas.index(policy.mask_id)]
    places = [place for place in range(size) if block[place] == active]
    before = [at[place] for place in range(size) if block[place] < active]
    denoise = SlowBlocks(policy, asked) if shape.block_length else slow_engine.run
    hidden = denoise(policy, [*prompt, *canvas])
    candidates = [place for place in places if canvas[place] == policy.mask_id]
    drawn = slow_engine.draw(policy, asked, hidden, candidates, call - 1)
    head, value = policy.sampler_head, asked.sampler.value
    if head and head.kind == "bernoulli":
        width, end = min(BLOCK, size), places[-1] + 1
        window = range(max(0, end - width), max(end, width))
        max_prob = {place: found[3] for place, found in drawn.items()}
        bits, *_ = slow_engine.choose_positions(policy, asked, max_prob, window, places, call - 1)
        return {place for place, bit in zip(window, bits.tolist(), strict=True) if bit}
    if head:
        value = float(head.gamma(batch.actions[row, call - 1 if head.by_state else 0]))
    calls = call - 1 - max(before, default=0)
    length = len(places) + (offset if active == 0 else 0)  # the prompt's part of the first block counts
    return slow_engine.choose(asked, drawn, call - 1, value, length, calls, math.ceil(asked.gen_length / BLOCK))


@pytest.mark.parametrize("refresh", [0, 2])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_of_an_approximate_cache_the_calls_are_made_again_that_refresh_it(cache: str, refresh: int) -> None:
    policy = tiny_policy(3, learned="state")
    config, _, batch = rolled_out(policy, "learned", cache=cache, cache_refresh=refresh)
    rows, calls = every_call(batch)
    assert not changed_sets(policy, rows, calls, config).any()
    for row, (call, found) in enumerate(zip(calls.tolist(), refreshed(rows, calls, config).tolist(), strict=True)):
        at = rows.committed_at[row, : int(rows.gen_lengths[row])].tolist()
        block = next(place for place, when in enumerate(at) if when >= call) // BLOCK
        first = 1 + max(at[: BLOCK * block], default=0)
        assert found == max(c for c in range(first, call + 1) if c == first or (refresh and (c - first) % refresh == 0))
    assert (refreshed(rows, calls, config) < calls).any()


def test_a_row_does_not_depend_on_those_beside_it() -> None:
    policy, other = tiny_policy(1), tiny_policy(2)
    config, _, batch = rolled_out(policy, "entropy_bound:0.7")
    rows, calls = every_call(batch)
    whole = replay(other, rows, calls, config)
    for row in range(0, len(calls), 7):
        assert torch.equal(replay(other, rows.take(torch.tensor([row])), calls[[row]], config)[0], whole[row])


def test_weights_that_are_broken_are_said() -> None:
    policy = tiny_policy(1)
    config, _, batch = rolled_out(policy, "top_k:1")
    with torch.no_grad():
        policy.denoiser.head.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        replay(policy, batch, torch.ones(len(batch), dtype=torch.int64), config)
