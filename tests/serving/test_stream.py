"""Server-sent events: text that only grows, and the unmasking itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

import pytest
import torch
from helpers import GOLDEN, request, tiny_policy
from serving.live import Live, serving
from small_tokenizers import TOKENIZERS

from diffpo.config import RolloutConfig, ServeConfig
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import load_tokenizer
from diffpo.rollout.engine import Committed
from diffpo.serving.answer import Transcript, overlap

SAID = {"temperature": 1.0, "sampler": "random:2", "max_tokens": 24, "block_length": 12, "seed": 4, "n": 3}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    config = ServeConfig(rollout=RolloutConfig(temperature=0.0, gen_length=8))
    with serving(tiny_policy(1, learned=True), config) as live:
        yield live


@pytest.mark.parametrize("stop", [None, ["23", "6"]])
def test_deltas_add_up_to_the_answer(live: Live, stop: list[str] | None) -> None:
    said = {**SAID, "stop": stop, "logprobs": 0}
    whole = live.complete(**said)
    texts, tokens, endings = [""] * 3, [[], [], []], [{}, {}, {}]
    *chunks, last = live.events(prompt="012", stream_options={"include_usage": True}, **said)
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        tokens[choice["index"]] += choice["logprobs"]["tokens"]
        endings[choice["index"]] = choice
    for choice, text, told, ending in zip(whole["choices"], texts, tokens, endings, strict=True):
        assert text == choice["text"] and told == choice["logprobs"]["tokens"]
        for key in ("finish_reason", "denoiser_calls", "gamma", "version"):
            assert ending[key] == choice[key]
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert len(chunks) > 3 or stop


def test_chats_stream_too(live: Live) -> None:
    messages = [{"role": "user", "content": "012"}]
    whole = live.post("/v1/chat/completions", messages=messages, **SAID).json()
    texts = [""] * 3
    for chunk in live.events("/v1/chat/completions", messages=messages, **SAID):
        assert chunk["object"] == "chat.completion.chunk"
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]


def test_the_unmasking_is_told_call_by_call(live: Live) -> None:
    whole = live.complete(**SAID)
    canvases = [[None] * 24 for _ in range(3)]
    calls = [0, 0, 0]
    for chunk in live.events(prompt="012", stream_options={"include_unmasking": True}, **SAID):
        seen = chunk.get("unmasking")
        if seen is None:
            continue
        index = seen["index"]
        calls[index] += 1
        assert chunk["choices"] == [] and seen["call"] == calls[index] and seen["canvas"] == 24
        assert len(seen["positions"]) == len(seen["tokens"]) == len(seen["confidence"]) == 2
        assert all(0 < confidence <= 1 for confidence in seen["confidence"])
        for position, token in zip(seen["positions"], seen["tokens"], strict=True):
            assert canvases[index][position] is None
            canvases[index][position] = token
    for choice, canvas, made in zip(whole["choices"], canvases, calls, strict=True):
        settled = canvas[: canvas.index("")] if "" in canvas else canvas
        assert "".join(settled) == choice["text"] and made == choice["denoiser_calls"]


def test_what_is_given_comes_first(live: Live) -> None:
    said = {"canvas": "12{3}0", "sampler": "top_k:1", "seed": 1, "stream_options": {"include_unmasking": True}}
    seen = [chunk["unmasking"] for chunk in live.events(prompt="01", **said) if "unmasking" in chunk]
    assert (seen[0]["call"], seen[0]["positions"], seen[0]["tokens"]) == (0, [0, 1, 5], ["1", "2", "0"])
    assert [each["call"] for each in seen] == [0, 1, 2, 3] and {each["canvas"] for each in seen} == {6}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_was_said_is_never_taken_back(name: str, tmp_path) -> None:
    """Random tokens in a random order: characters of several bytes, special tokens, ends, stops."""
    TOKENIZERS[name](tmp_path)
    config = json.loads((GOLDEN / f"{name}-tiny" / "config.json").read_text())
    tokenizer = load_tokenizer(tmp_path, config, 192, own_ids=name.startswith("a2d"))
    policy, random = Policy(tiny_policy().denoiser, tokenizer), Random(0)
    for trial in range(150):
        length = random.randint(1, 12)
        ids = [random.randrange(policy.tokenizer.vocab_size) for _ in range(length)]
        ids = [0 if token == policy.mask_id else token for token in ids]
        stops = [["th", "e"], [], ["<|", "end"]][trial % 3]
        order, said = random.sample(range(length), length), ""
        answer = Transcript(policy, request(gen_length=length), stops)
        for call, position in enumerate(order, start=1):
            if not answer.over:
                at = torch.tensor([position])
                answer.take(Committed(0, call, at, torch.tensor([ids[position]]), torch.zeros(1), torch.ones(1), 0.0))
                said += answer.delta()
                assert answer.text.startswith(said)
        whole = tokenizer.decode(ids)
        cut = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=len(whole))
        assert answer.text == whole[:cut] and whole[:cut].startswith(said)


@pytest.mark.parametrize("stops", [["34"], ["3456", "5"], ["7"], []])
def test_a_stop_ends_an_answer_however_many_tokens_a_call_commits(stops: list[str]) -> None:
    """What a call commits behind a stop was counted in the usage, and of two stops the longer won."""
    policy, ids = tiny_policy(), torch.tensor([1, 2, 3, 4, 5, 6, 1, 2])
    ends = []
    for calls in (ids.split(1), ids.split(3), [ids]):
        answer, start = Transcript(policy, request(gen_length=8), stops), 0
        for call, tokens in enumerate(calls, start=1):
            if not answer.over:
                at = torch.arange(start, start + len(tokens))
                answer.take(Committed(0, call, at, tokens, torch.zeros(len(at)), torch.ones(len(at)), 0.0))
            start += len(tokens)
        ends.append((answer.text, answer.settled, answer.finish_reason))
    assert len(set(ends)) == 1, ends


def test_overlaps_are_beginnings() -> None:
    assert [overlap("xab", stop) for stop in ("abc", "bc", "ab", "c", "xabx")] == [2, 1, 0, 0, 3]


def test_a_head_without_thresholds_has_none_to_tell() -> None:
    for head, gamma in (("prompt", 0.0), ("bernoulli", None)):
        assert Transcript(tiny_policy(learned=head), request(sampler="learned"), ()).gamma == gamma
