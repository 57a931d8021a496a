"""Canvases between a prompt and a suffix, against the slow twin, which shows the model both sides."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import tiny_policy
from rollout.slow_engine import decode
from rollout.test_cache import SlowCache, cached_requests
from rollout.test_engine import assert_same

from diffpo.models.tokenizer import CharTokenizer
from diffpo.rollout.engine import generate
from diffpo.types import Request


def infilling(count: int) -> list[Request]:
    """Requests of every kind, two of three with a suffix; groups that share a prompt differ in it."""
    suffixes = [CharTokenizer("0123456").encode(text) for text in ("", "34", "0123456")]
    asked = cached_requests(count)
    return [replace(each, suffix_ids=suffixes[index % 3]) for index, each in enumerate(asked)]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("level", ["prompt", "state"])
def test_a_canvas_is_filled_in_between(shift: int, level: str) -> None:
    policy, requests = tiny_policy(4, learned=level, shift=shift), infilling(18)
    for asked, completion in zip(requests, generate(policy, requests, num_slots=7), strict=True):
        assert_same(completion, decode(policy, asked, SlowCache(policy, asked)))
        assert len(completion.tokens) == asked.gen_length


def test_a_row_with_a_suffix_does_not_depend_on_its_batch() -> None:
    policy, requests = tiny_policy(4, learned=True), infilling(24)
    for asked, completion in zip(requests, generate(policy, requests), strict=True):
        assert_same(completion, generate(policy, [asked])[0], exact=True)


def test_a_suffix_takes_room() -> None:
    asked = replace(infilling(3)[2], gen_length=58)
    with pytest.raises(ValueError, match="exceeds the model's 64"):
        generate(tiny_policy(learned=True), [asked])


def test_block_causal_models_see_nothing_behind() -> None:
    asked = replace(infilling(3)[2], cache="exact")
    with pytest.raises(ValueError, match="suffix: where attention is block-causal"):
        generate(tiny_policy(learned=True, block_length=4), [asked])
