"""Requests that come, go and change weights while others are decoded: each is still a function of itself."""

from __future__ import annotations

import itertools
from random import Random

import pytest
import torch
from helpers import request, tiny_policy
from rollout.slow_engine import decode
from rollout.test_cache import SlowCache, cached_requests
from rollout.test_engine import assert_same, mixed_requests, mixed_requests_without_a_head

from diffpo.models.policy import Policy
from diffpo.rollout import engine as rollout_engine
from diffpo.rollout.engine import Committed, Engine, Finished, generate
from diffpo.types import Completion, Request


def serve(engine: Engine, requests: list[Request], seed: int) -> dict[int, Completion]:
    """Completions by ticket of requests that arrive at random, some a step, while the engine runs."""
    random, left, found = Random(seed), list(requests), {}
    while left or engine.busy:
        for _ in range(random.randrange(4) if left else 0):
            if left:
                engine.submit(left.pop(0))
        for event in engine.step():
            assert isinstance(event, Finished) and event.ticket not in found
            found[event.ticket] = event.completion
    return found


@pytest.mark.parametrize(
    ("head", "requests", "num_slots"),
    [
        ("prompt", mixed_requests(70), 8),
        ("state", mixed_requests(70), 8),
        ("bernoulli", mixed_requests(70), 8),
        ("prompt", cached_requests(45), 5),
    ],
    ids=["prompt", "state", "bernoulli", "caches"],
)
def test_requests_may_come_while_others_are_decoded(head: str, requests: list[Request], num_slots: int) -> None:
    policy = tiny_policy(2, learned=head)
    found = serve(Engine(policy, num_slots), requests, seed=0)
    for ticket, expected in enumerate(generate(policy, requests)):
        assert_same(found[ticket], expected, exact=True)


def test_slots_are_used_again() -> None:
    """Many requests through eight slots leave eight, as wide as the widest, and nothing else."""
    policy, requests = tiny_policy(), mixed_requests_without_a_head(240)
    engine = Engine(policy, num_slots=8)
    found = serve(engine, requests, seed=2)
    assert len(found) == len(requests) and not engine.requests and not engine.busy
    assert len(engine._slots) == 8 and engine._slots.sequence.shape[1] == 7 + 12
    for ticket, expected in enumerate(generate(policy, requests)):
        assert_same(found[ticket], expected, exact=True)


def test_rules_that_nobody_uses_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request with a threshold of its own: they still decode as alone."""
    monkeypatch.setattr(rollout_engine, "MAX_RULES", 8)
    policy = tiny_policy()
    requests = [request("012", key, f"entropy_bound:{0.1 + key / 50}", temperature=key % 2) for key in range(60)]
    engine = Engine(policy, num_slots=4)
    found: dict[int, Completion] = {}
    for start in range(0, 60, 6):
        found |= serve(engine, requests[start : start + 6], seed=1)
        assert len(engine._rules) == len(engine._numbers) <= 8 + 6
    for ticket, expected in enumerate(generate(policy, requests)):
        assert_same(found[ticket], expected, exact=True)


def test_a_stream_tells_what_each_call_commits() -> None:
    policy, requests = tiny_policy(learned=True), mixed_requests(24)
    engine = Engine(policy, num_slots=5, stream=True)
    for asked in requests:
        engine.submit(asked)
    calls: dict[int, list[Committed]] = {ticket: [] for ticket in range(len(requests))}
    for event in engine.run():
        if isinstance(event, Committed):
            calls[event.ticket].append(event)
            continue
        completion, seen = event.completion, calls.pop(event.ticket)
        assert [commit.call for commit in seen] == list(range(1, completion.nfe + 1))
        for commit in seen:
            assert (completion.committed_at[commit.positions] == commit.call).all() and len(commit.positions)
            assert torch.equal(completion.tokens[commit.positions], commit.tokens)
            assert torch.equal(completion.behaviour_logprobs[commit.positions], commit.logprobs)
            entropies = completion.entropies[commit.positions]
            assert (commit.max_probs <= 1 + 1e-6).all() and (-commit.max_probs.log() <= entropies + 1e-5).all()
            assert requests[event.ticket].sampler.rule != "learned" or commit.gamma == completion.gamma
        told = torch.cat([commit.positions for commit in seen])
        assert len(told.unique()) == len(told) >= completion.length
    assert not calls


def test_a_cancelled_request_is_not_heard_of_again() -> None:
    """Waiting, decoded, or ended; the others do not notice, and its slot serves the next."""
    policy, requests = tiny_policy(3, learned=True), mixed_requests(30)
    engine = Engine(policy, num_slots=4)
    tickets = [engine.submit(asked) for asked in requests]
    found, running, waiting = {}, -1, -1
    for step in itertools.count():
        events = engine.step()
        found |= {event.ticket: event.completion for event in events if isinstance(event, Finished)}
        if step == 1:
            running, waiting = next(t for t in range(4) if t not in found), tickets[20]
            engine.cancel(running)
            engine.cancel(waiting)
            engine.cancel(running)
        for ticket in list(found):
            engine.cancel(ticket)
        if not engine.busy:
            break
    assert found.keys() == {*tickets} - {running, waiting}
    expected = generate(policy, requests)
    for ticket, completion in found.items():
        assert_same(completion, expected[ticket], exact=True)


class Switching(SlowCache):
    """Takes over other weights after the third call, and computes its cache anew."""

    def __init__(self, policy: Policy, asked: Request, weights: dict[str, torch.Tensor]) -> None:
        super().__init__(policy, asked)
        self.weights, self.calls = weights, 0

    def __call__(self, policy: Policy, sequence: list[int]) -> torch.Tensor:
        self.calls += 1
        if self.calls == 4:
            policy.load_weights(self.weights, version=7)
            self.block = -1
        return super().__call__(policy, sequence)


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_weights_may_change_between_two_steps(cache: str) -> None:
    """Calls before compute with the old ones, calls after with the new; completions say which."""
    new = tiny_policy(1)
    weights = {name: tensor.clone() for name, tensor in new.trainable().items()}
    asked = [request("012", key, "top_k:1", early_exit=False, cache=cache) for key in range(5)]
    engine, found = Engine(tiny_policy(0), num_slots=4), {}
    for each in asked:
        engine.submit(each)
    for step in itertools.count():
        if step == 3:
            engine.load_weights(weights, version=7)
        found |= {event.ticket: event.completion for event in engine.step() if isinstance(event, Finished)}
        if not engine.busy:
            break
    assert [found[ticket].versions for ticket in range(4)] == [((1, 0), (4, 7))] * 4
    assert found[4].versions == ((1, 7),)
    for each in asked[:4]:
        twin = tiny_policy(0)
        drawn, completion = decode(twin, each, Switching(twin, each, weights)), found[asked.index(each)]
        assert torch.equal(completion.tokens, drawn.tokens)
        torch.testing.assert_close(completion.behaviour_logprobs, drawn.behaviour_logprobs, atol=2e-6, rtol=2e-5)
    assert torch.equal(found[4].tokens, generate(new, [asked[4]])[0].tokens)


def test_weights_that_do_not_fit_are_refused() -> None:
    engine = Engine(tiny_policy())
    with pytest.raises(ValueError, match=r"no parameter of this policy .* nothing\.weight"):
        engine.load_weights({"nothing.weight": torch.zeros(1)}, version=1)


def test_an_engine_wants_a_slot_and_rows_that_fit() -> None:
    with pytest.raises(ValueError, match="num_slots must be >= 1"):
        Engine(tiny_policy(), num_slots=0)
    with pytest.raises(ValueError, match="a row of 66 tokens exceeds the model's 64"):
        Engine(tiny_policy()).submit(request("01", gen_length=64))
