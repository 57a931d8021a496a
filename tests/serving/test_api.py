"""OpenAI's API over a live server: its fields, its objects, its errors, and the fields of a diffusion model."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from helpers import tiny_policy
from serving.live import Live, serving

from diffpo.config import RolloutConfig, ServeConfig
from diffpo.rollout.local import sample

GREEDY = RolloutConfig(temperature=0.0, sampler="learned", gen_length=8)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving(tiny_policy(1, learned=True), ServeConfig(rollout=GREEDY)) as live:
        yield live


def test_a_completion_is_that_of_sample(live: Live) -> None:
    """Under its defaults the server answers as `diffpo.sample`, whose seed is the request's."""
    policy = live.service.models["tiny"].policy
    for seed in range(3):
        warm = replace(GREEDY, temperature=0.8, sampler="entropy_bound:0.5", block_length=4)
        for config, said in ((GREEDY, {}), (warm, {"temperature": 0.8, "entropy_bound": 0.5, "block_length": 4})):
            expected = sample(policy, ["012", "3", "456"], config, seed=seed)
            answer = live.complete(["012", "3", "456"], seed=seed, **said)
            assert [choice["text"] for choice in answer["choices"]] == [each.text for each in expected]
            assert [choice["denoiser_calls"] for choice in answer["choices"]] == [each.nfe for each in expected]
            for choice, each in zip(answer["choices"], expected, strict=True):
                assert math.isclose(choice["gamma"], each.gamma, rel_tol=1e-6)
            assert answer["usage"] == {
                "prompt_tokens": 7,
                "completion_tokens": sum(each.length for each in expected),
                "total_tokens": 7 + sum(each.length for each in expected),
                "denoiser_calls": sum(each.nfe for each in expected),
            }


@pytest.mark.parametrize("head", ["state", "bernoulli"])
def test_other_heads_answer_as_well(head: str) -> None:
    policy = tiny_policy(3, learned=head)
    (expected,) = sample(policy, ["012"], GREEDY)
    with serving(policy, ServeConfig(rollout=GREEDY)) as live:
        (choice,) = live.complete(seed=0)["choices"]
    assert choice["text"] == expected.text and choice["denoiser_calls"] == expected.nfe
    assert choice["gamma"] == (expected.gamma and pytest.approx(expected.gamma, rel=1e-5))


def test_what_clients_send_that_asks_for_nothing_is_taken(live: Live) -> None:
    """Fields that are null, as clients send messages back, and hints that change no answer."""
    nothing = dict.fromkeys(("tool_calls", "function_call", "refusal", "annotations", "audio", "reasoning_content"))
    said = {"messages": [{"role": "user", "content": "012", **nothing}], "seed": 3, "logprobs": None}
    hints = {"service_tier": "auto", "prompt_cache_key": "a", "parallel_tool_calls": True, "reasoning_effort": None}
    answers = [live.post("/v1/chat/completions", **said, **more) for more in ({}, hints)]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    assert answers[0].json()["choices"] == answers[1].json()["choices"]
    assert live.error("/v1/chat/completions", **said, reasoning_effort="low")["param"] == "reasoning_effort"


def test_a_chat_without_a_template_is_a_prompt(live: Live) -> None:
    chat = live.post("/v1/chat/completions", messages=[{"role": "user", "content": "012"}], seed=3, temperature=1)
    (choice,) = chat.json()["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": live.complete(seed=3, temperature=1)["choices"][0]["text"],
    }
    turns = [{"role": "user", "content": "0"}, {"role": "assistant", "content": "1"}, {"role": "user", "content": "2"}]
    assert "no chat template" in live.error("/v1/chat/completions", messages=turns)["message"]


def test_n_completions_are_those_of_n_prompts(live: Live) -> None:
    answer = live.complete(n=3, seed=5, temperature=1)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    many = live.complete(["012", "012", "012"], seed=5, temperature=1)
    assert answer["choices"] == many["choices"] and answer["seed"] == 5
    assert len({choice["text"] for choice in answer["choices"]}) > 1


def test_a_seed_is_chosen_and_told(live: Live) -> None:
    first = live.complete(temperature=2, n=4)
    again = live.complete(temperature=2, n=4, seed=first["seed"])
    assert again["choices"] == first["choices"]
    assert live.complete(temperature=2, n=4)["seed"] != first["seed"]


def test_stops_end_the_text_and_the_calls(live: Live) -> None:
    whole = live.complete(seed=0, temperature=1, sampler="top_k:1", max_tokens=16, block_length=1, n=8)
    for at, choice in enumerate(whole["choices"]):
        text = choice["text"]
        if len(text) < 4:
            continue
        stop = text[1:3]
        cut = live.complete(
            seed=0, temperature=1, sampler="top_k:1", max_tokens=16, block_length=1, n=8, stop=[stop, "never"]
        )["choices"][at]
        assert cut["text"] == text[: text.index(stop)] and cut["finish_reason"] == "stop"
        assert cut["denoiser_calls"] == text.index(stop) + 2 < choice["denoiser_calls"]
        return
    raise AssertionError("no completion of some length")


def test_logprobs_are_those_of_the_calls_that_committed(live: Live) -> None:
    policy = live.service.models["tiny"].policy
    config = replace(GREEDY, temperature=0.7, sampler="top_k:2")
    (expected,) = sample(policy, ["012"], config, seed=2)
    said = {"seed": 2, "temperature": 0.7, "sampler": "top_k:2"}
    told = live.complete(logprobs=0, **said)["choices"][0]["logprobs"]
    size = len(expected.text)
    assert "".join(told["tokens"]) == expected.text and told["text_offset"] == list(range(size))
    assert told["calls"] == expected.committed_at[:size].tolist()
    assert told["token_logprobs"] == pytest.approx(expected.behaviour_logprobs[:size].tolist(), abs=1e-6)
    messages = [{"role": "user", "content": "012"}]
    chat = live.post("/v1/chat/completions", messages=messages, logprobs=True, **said).json()
    content = chat["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in content] == told["token_logprobs"]
    assert [entry["call"] for entry in content] == told["calls"]
    assert [bytes(entry["bytes"]).decode() for entry in content] == told["tokens"]
    greedy = live.complete(logprobs=0, sampler="top_k:1")["choices"][0]["logprobs"]["token_logprobs"]
    assert all(-2.3 < value < 0 for value in greedy)  # of the likeliest of nine tokens: the model's, not a point mass's


def test_a_suffix_is_seen(live: Live) -> None:
    """The model fills in between: the twin of `tests/rollout/test_infill.py` says with what."""
    said = {"seed": 1, "temperature": 1, "sampler": "top_k:1"}
    plain, empty, behind = (live.complete("012", **said, **more) for more in ({}, {"suffix": ""}, {"suffix": "6540"}))
    assert plain["choices"] == empty["choices"] != behind["choices"]
    assert behind["usage"]["prompt_tokens"] == 7 and len(behind["choices"][0]["text"]) <= 8
    assert live.error(prompt="0", suffix="x")["param"] == "suffix"
    assert "a prompt and a suffix of 60 tokens" in live.error(prompt="0", suffix="0" * 59)["message"]
    messages = [{"role": "user", "content": "0"}]
    assert "no such field" in live.error("/v1/chat/completions", messages=messages, suffix="1")["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_canvas_is_filled_in(live: Live, path: str) -> None:
    """As `sample` fills it, in a stream too; an end of the answer is none before what is given."""
    policy = live.service.models["tiny"].policy
    config = RolloutConfig(canvas="1{5}23{4}", sampler="top_k:2", temperature=1.0)
    expected = sample(policy, ["012"] * 12, config, seed=7)
    asked = {"prompt": "012"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "012"}]}
    said = {**asked, "canvas": config.canvas, "sampler": "top_k:2", "temperature": 1, "seed": 7, "n": 12}
    choices = live.post(path, **said).json()["choices"]
    texts = [choice["text"] if "text" in choice else choice["message"]["content"] for choice in choices]
    assert texts == [completion.text for completion in expected]
    assert any(policy.eos_id in completion.tokens[1:6] for completion in expected)
    streamed = [""] * 12
    for chunk in live.events(path, **said):
        (choice,) = chunk["choices"]
        streamed[choice["index"]] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
    assert streamed == texts
    assert live.error(path, **asked, canvas="1{4}", max_tokens=8)["param"] == "max_tokens"
    for canvas in ("12", "{4}x", "{99}", "{62}", "{999999999}"):  # of the last but one the prompt is too much
        assert live.error(path, **asked, canvas=canvas)["param"] == "canvas"


def test_a_canvas_of_the_server_gives_way_to_a_length() -> None:
    policy = tiny_policy(1)
    rollout = RolloutConfig(canvas="12{3}", temperature=0.0, sampler="top_k:1")
    with serving(policy, ServeConfig(rollout=rollout)) as live:
        assert live.complete("0")["choices"][0]["text"].startswith("12")
        assert live.complete("0", canvas="3{2}")["choices"][0]["text"].startswith("3")
        (free,) = sample(policy, ["0"], replace(rollout, canvas="", gen_length=6))
        assert live.complete("0", max_tokens=6)["choices"][0]["text"] == free.text


def test_finish_reasons(live: Live) -> None:
    reasons = {choice["finish_reason"] for choice in live.complete(n=32, temperature=2, max_tokens=2)["choices"]}
    assert reasons == {"stop", "length"}


def test_models_and_tokens(live: Live) -> None:
    (model,) = live.client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny" and model["max_model_len"] == 64 and model["decoding"]["sampler"] == "learned"
    assert live.client.get("/v1/models/tiny").json() == model
    missing = live.client.get("/v1/models/tyni")
    assert missing.status_code == 404 and "did you mean 'tiny'?" in missing.json()["error"]["message"]
    tokens = live.post("/tokenize", prompt="0123").json()
    assert tokens == {"count": 4, "max_model_len": 64, "tokens": [0, 1, 2, 3]}
    assert live.post("/tokenize", messages=[{"role": "user", "content": "01"}]).json()["tokens"] == [0, 1]
    by_ids = live.complete([0, 1, 2], seed=1, temperature=1)
    assert by_ids["choices"] == live.complete("012", seed=1, temperature=1)["choices"]


def test_what_asks_for_nothing_is_taken(live: Live) -> None:
    live.complete(model="tiny", top_p=1, presence_penalty=0.0, logit_bias=None, echo=False, user="me", best_of=1)
    live.complete(top_k=-1, min_p=0.0, repetition_penalty=1.0, skip_special_tokens=True, ignore_eos=False, min_tokens=0)
    live.complete(stop_token_ids=[], include_stop_str_in_output=False, use_beam_search=False, length_penalty=1.0)
    assert live.error("/v1/completions", prompt="0", repetition_penalty=1.1)["param"] == "repetition_penalty"
    said = {"response_format": {"type": "text"}, "tools": [], "top_logprobs": 0, "tool_choice": "none", "n": None}
    said |= {"modalities": ["text"], "add_generation_prompt": True}
    assert live.post("/v1/chat/completions", messages=[{"role": "user", "content": "0"}], **said).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"temperature": 1e-9}, "temperature", "must be 0, which is greedy, or at least 0.01"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 100, "prompt": ["0", "1"]}, "n", "200 completions are asked for, at most 128"),
        ({"seed": 2**63}, "seed", "less than"),
        ({"max_tokens": 62}, "max_tokens", "a prompt of 3 tokens and a canvas of 62 exceed 64"),
        ({"stop": [""]}, "stop", "an empty text stands everywhere"),
        ({"stop": 3}, "stop", "valid string, or input should be a valid list"),
        ({"prompt": "01x"}, "prompt", "alphabet lacks 'x'"),
        ({"prompt": []}, "prompt", "an empty list"),
        ({"prompt": [0, 8]}, "prompt", "no token 8"),
        ({"prompt": [0, 99]}, "prompt", "no token 99"),
        ({"prompt": ""}, "sampler", "a prompt is empty: use a fixed rule"),
        ({"sampler": "entropy-bound:1"}, "sampler", "did you mean 'entropy_bound'?"),
        ({"sampler": "top_k:0"}, "sampler", "an integer >= 1"),
        ({"sampler": "top_k:1e300"}, "sampler", "1e+06 at most"),
        ({"sampler": "/etc/rules.py:Rule:1"}, "sampler", "unknown rule"),
        ({"sampler": "top_k:/tmp/rules.py:Rule:1"}, "sampler", "unknown rule"),
        ({"sampler": "top_k:1", "steps": 4}, "steps", "an unmasking rule, and sampler names another"),
        ({"steps": 3, "block_length": 4}, "steps", "must be a multiple of the 2 block(s)"),
        ({"entropy_bound": -1}, "entropy_bound", "greater than or equal to 0"),
        ({"cache": "prefx"}, "cache", "'exact', 'prefix' or 'dual'"),
        ({"cache": "exact"}, "cache", "for models whose attention is block-causal"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "does nothing without stream"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "mean 'include_usage'?"),
        ({"top_p": 0.9}, "top_p", "nucleus sampling"),
        ({"response_format": {"type": "json_object"}}, "response_format", "constrained decoding is not supported"),
        ({"logprobs": 5}, "logprobs", "drawn is kept: give 0 for it"),
        ({"model": "tinny"}, "model", "did you mean 'tiny'?"),
    ],
)
def test_what_is_wrong_is_named_with_the_mend(live: Live, body: dict, param: str, message: str) -> None:
    error = live.error(**{"prompt": "012", **body}, status=404 if param == "model" else 400)
    assert error["param"] == param and message in error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"prompt": "0"}', "text/plain", 400),
        (b'{"prompt": NaN}', "application/json", 400),
        (b'{"prompt": "0", "temperature": 1e999}', "application/json", 400),
        (b'{"prompt": "\\ud800"}', "application/json", 400),
        (b'{"prompt": "0", "\\ud800": 1}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 50_000, "application/json", 400),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "application/json", 400),
        (b" " * 1_000_001, "application/json", 413),
    ],
)
def test_bodies_that_are_none(live: Live, content: bytes, kind: str, status: int) -> None:
    answer = live.client.post("/v1/completions", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status and answer.json()["error"]["message"]


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_a_client_hears_that_its_body_is_too_large(live: Live, expects: bytes) -> None:
    """A connection that is closed on one who still sends is reset, and the answer with it."""
    with socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2])), 20) as sock:
        size = 8_000_000
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
        sock.sendall(head % (expects, size) + (b"" if expects else b" " * size))
        assert b" 413 " in sock.recv(1000).split(b"\r\n")[0]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "content.0.image_url"),
        ({"role": "tool", "content": "4", "tool_call_id": "1"}, "tool_call_id"),
    ],
)
def test_what_a_message_may_not_hold_is_named(live: Live, message: dict, param: str) -> None:
    error = live.error("/v1/chat/completions", messages=[message])
    assert error["param"] == f"messages.0.{param}" and "leave" in error["message"]


def test_paths_and_methods(live: Live) -> None:
    wrong = live.client.post("/v1/chat/completion", json={})
    assert wrong.status_code == 404 and "did you mean '/v1/chat/completions'?" in wrong.json()["error"]["message"]
    assert live.client.get("/v1/completions").status_code == 405
    assert live.client.get("/health").json() == {"status": "ok"} and live.client.get("/ready").status_code == 200
    for path in ("/health", "/ready"):  # as many a load balancer asks
        head = live.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert not any("head" in path for path in live.client.get("/openapi.json").json()["paths"].values())


def test_metrics_count(live: Live) -> None:
    before = {name: live.metric(name) for name in ("diffpo_tokens_total", "diffpo_nfe_sum", "diffpo_completions_total")}
    usage = live.complete(n=3, temperature=1)["usage"]
    assert live.metric("diffpo_tokens_total") - before["diffpo_tokens_total"] == usage["completion_tokens"]
    assert live.metric("diffpo_nfe_sum") - before["diffpo_nfe_sum"] == usage["denoiser_calls"]
    assert live.metric("diffpo_completions_total") - before["diffpo_completions_total"] == 3
    assert live.metric("diffpo_slots_in_use") == live.metric("diffpo_waiting") == 0
