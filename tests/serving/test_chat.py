"""A model with a chat template, in LLaDA's layout: conversations, ends of turns, and special tokens that users type."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from models.published_llada import golden_checkpoint
from serving.live import Live, serving

from diffpo.config import RolloutConfig, ServeConfig
from diffpo.models.policy import Policy, load_policy
from diffpo.rollout.local import sample

CONFIG = RolloutConfig(temperature=1.0, sampler="entropy_bound:0.5", gen_length=24, block_length=8)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say <|eot_id|> and <|mdm_mask|>."},
    {"role": "assistant", "content": "No."},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(golden_checkpoint(tmp_path_factory.mktemp("llada"), tokenizer=True), dtype="float32")


@pytest.fixture(scope="module")
def live(policy: Policy) -> Iterator[Live]:
    with serving(policy, ServeConfig(rollout=CONFIG), "llada") as live:
        yield live


def test_a_conversation_is_answered_as_by_sample(live: Live, policy: Policy) -> None:
    for seed in range(4):
        (expected,) = sample(policy, [TALK], CONFIG, seed=seed)
        answer = live.post("/v1/chat/completions", messages=TALK, seed=seed, logprobs=True).json()
        (choice,) = answer["choices"]
        assert choice["message"]["content"] == expected.text
        assert choice["denoiser_calls"] <= expected.nfe  # an end of turn ends it here, an EOS there
        streamed = live.events("/v1/chat/completions", messages=TALK, seed=seed)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in streamed) == expected.text
    assert live.client.get("/v1/models").json()["data"][0]["chat"] is True


def test_special_tokens_in_what_users_type_are_text(live: Live, policy: Policy) -> None:
    ids = live.post("/tokenize", messages=TALK).json()["tokens"]
    assert ids == list(policy.encode(TALK))
    special = {policy.eos_id, policy.mask_id}
    assert not special & {*ids} and ids.count(policy.tokenizer.end_of_turn[0]) == len(TALK)
    assert policy.mask_id not in live.post("/tokenize", prompt="<|mdm_mask|><|endoftext|>").json()["tokens"]


def test_parts_and_developers_are_understood(live: Live) -> None:
    parts = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]},
    ]
    plain = [TALK[0], TALK[3]]
    said = [live.post("/tokenize", messages=messages).json() for messages in (parts, plain)]
    assert said[0] == said[1]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    error = live.error("/v1/chat/completions", messages=image)
    assert error["param"].startswith("messages.0.content")
