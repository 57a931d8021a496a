"""Many clients at once: answers that do not notice each other, a fair queue, limits, clients that leave, failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import httpx2
import pytest
import torch
from helpers import request, tiny_policy
from serving.live import Live, serving

from diffpo.config import RolloutConfig, ServeConfig
from diffpo.serving.scheduler import FairQueue, Row

SLOTS = 6
PLAIN = ServeConfig(rollout=RolloutConfig(temperature=0.0, sampler="top_k:1", gen_length=8))
MESSAGES = [{"role": "user", "content": "0"}]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    config = ServeConfig(rollout=RolloutConfig(temperature=0.0, gen_length=8, num_slots=SLOTS), max_waiting=64)
    with serving(tiny_policy(2, learned=True), config) as live:
        yield live


def bodies(count: int) -> list[dict[str, Any]]:
    """Requests of every kind."""
    random, found = Random(0), []
    for seed in range(count):
        rule = random.choice(
            [
                {},
                {"sampler": "top_k:2"},
                {"entropy_bound": 0.4},
                {"sampler": "random:1"},
                {"steps": 4},
                {"sampler": "margin:1"},
            ]
        )
        body = {
            "prompt": "".join(random.choices("0123456", k=random.randint(1, 9))),
            "max_tokens": random.choice([4, 8, 16]),
            "block_length": random.choice([4, 8]),
            "cache": random.choice(["none", "prefix", "dual"]),
            "temperature": random.choice([0, 0.7, 1.5]),
            "n": random.choice([1, 1, 3]),
            "stop": random.choice([None, "3", ["01", "2"]]),
            "suffix": random.choice(["", "", "65", "0123"]),
            "logprobs": 0,
            "seed": seed,
        }
        found.append({**body, **rule})
    return found


def test_the_same_request_has_the_same_tokens_under_any_load(live: Live) -> None:
    """Alone, and among 12 clients of whom some leave in the middle of a stream."""
    asked = bodies(24)
    alone = [live.complete(**body) for body in asked]

    def ask(index: int) -> dict[str, Any]:
        if index % 4 == 0:  # somebody who leaves
            with live.client.stream("POST", "/v1/completions", json={**asked[index - 1], "stream": True}) as answer:
                next(answer.iter_lines())
        return live.complete(**asked[index])

    order = [*range(len(asked)), *range(len(asked))]
    Random(1).shuffle(order)
    with ThreadPoolExecutor(12) as pool:
        for index, answer in zip(order, pool.map(ask, order), strict=True):
            for key in ("choices", "usage"):
                assert answer[key] == alone[index][key], asked[index]
    live.wait("diffpo_slots_in_use", 0)


def test_clients_take_turns() -> None:
    policy, queue = tiny_policy(), FairQueue()
    rows = [Row(client, policy, request(), lambda event, version: None) for client in "aaaabbc"]
    for row in rows:
        queue.push(row)
    queue.remove(rows[1:2])
    assert len(queue) == 6
    assert [rows.index(queue.pop()) for _ in range(6)] == [0, 4, 6, 2, 5, 3] and not queue


def test_a_full_queue_sends_away(live: Live) -> None:
    with ThreadPoolExecutor(16) as pool, live.held():
        waiting = [pool.submit(live.complete, "012", n=8, seed=seed) for seed in range(8)]
        live.wait("diffpo_waiting", 64)
        assert live.client.get("/ready").status_code == 503
        answer = live.post("/v1/completions", prompt="0")
        assert answer.status_code == 429 and int(answer.headers["Retry-After"]) >= 1
        error = answer.json()["error"]
        assert error["type"] == "rate_limit_error" and error["code"] == "queue_full"
    assert all(answer.result()["choices"] for answer in waiting)
    assert live.client.get("/ready").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_forgotten(live: Live, stream: bool) -> None:
    """Neither what waits nor what is decoded is gone on with."""
    calls = live.metric("diffpo_denoiser_calls_total")
    with live.held():
        body = {"prompt": "0", "n": 2 * SLOTS, "max_tokens": 60, "sampler": "top_k:1", "stream": stream}
        with httpx2.Client(base_url=live.url, timeout=0.3) as client, pytest.raises(httpx2.TimeoutException):
            client.post("/v1/completions", json=body)
        live.wait("diffpo_waiting", 0)
    live.wait("diffpo_slots_in_use", 0)
    assert live.metric("diffpo_denoiser_calls_total") == calls


def test_a_stream_that_is_left_is_cancelled(live: Live) -> None:
    calls = live.metric("diffpo_denoiser_calls_total")
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 60, "sampler": "top_k:1", "stream_options": {}}
    with live.client.stream("POST", "/v1/chat/completions", json={**body, "n": 4, "seed": 1}) as answer:
        next(answer.iter_lines())
    live.wait("diffpo_slots_in_use", 0)
    assert live.metric("diffpo_denoiser_calls_total") - calls <= 60


def test_a_request_has_a_time_limit() -> None:
    with serving(tiny_policy(), replace(PLAIN, timeout=0.2)) as live, live.held():
        error = live.error(prompt="0", status=408)
        assert "not done within 0.2 s" in error["message"] and error["code"] == "timeout"
        with live.client.stream("POST", "/v1/completions", json={"prompt": "0", "stream": True}) as answer:
            lines = [line for line in answer.iter_lines() if line]
        assert '"code":"timeout"' in lines[-1] and "[DONE]" not in lines[-1]


def test_a_key_opens_the_gate(tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes("\ufefffirst\r\n\r\n# the team\r\nsecond".encode())  # as Windows saves it
    with serving(tiny_policy(), replace(PLAIN, api_key="own", api_key_file=str(keys))) as live:
        assert live.client.get("/health").status_code == live.client.get("/metrics").status_code == 200
        assert live.client.get("/v1/models").status_code == 401
        assert live.error(prompt="0", status=401)["code"] == "invalid_api_key"
        for key, status in (
            ("own", 200),
            ("first", 200),
            ("second", 200),
            ("third", 401),
            ("own,first", 401),
            ("é", 401),
        ):
            answer = live.client.get("/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert answer.status_code == status, key
        assert live.client.get("/v1/models", headers={"Authorization": "bearer first"}).status_code == 200


def test_pages_of_others_are_let_in_when_asked() -> None:
    origin = "https://example.org"
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with serving(tiny_policy(), replace(PLAIN, cors=(origin,), api_key="own")) as live:
        allowed = live.client.options("/v1/completions", headers=asks)
        assert allowed.status_code == 200 and allowed.headers["Access-Control-Allow-Origin"] == origin
    with serving(tiny_policy(), PLAIN) as live:
        refused = live.client.options("/v1/completions", headers=asks)
        assert refused.status_code == 405 and "Access-Control-Allow-Origin" not in refused.headers


@pytest.mark.parametrize("origin", ["https://example.org/", "example.org", "https://example.org/page", ""])
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match=r"cors .*: write https://HOST or https://HOST:PORT"):
        replace(PLAIN, cors=("https://example.org:8000", "*", origin))


def test_a_model_that_fails_fails_its_requests_and_no_others() -> None:
    policy = tiny_policy()
    with serving(policy, PLAIN) as live:
        before = live.complete(seed=1, temperature=1)
        weight = policy.denoiser.head.weight.detach()
        kept = weight.clone()
        with torch.no_grad():
            weight.fill_(torch.nan)
        error = live.error(prompt="0", status=500)
        assert error["type"] == "server_error" and "not finite" in error["message"]
        with torch.no_grad():
            weight.copy_(kept)
        assert live.complete(seed=1, temperature=1)["choices"] == before["choices"]
        assert live.client.get("/health").status_code == 200


def test_nothing_is_kept_of_requests_that_are_over(live: Live) -> None:
    for seed in range(3):
        live.complete(seed=seed)
    live.wait("diffpo_slots_in_use", 0)
    engine = next(iter(live.service.scheduler._engines.values()))
    assert not engine.requests and not live.service.scheduler._rows and len(engine._slots) <= SLOTS
    assert threading.active_count() < 40
