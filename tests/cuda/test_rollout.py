"""The engine on the fake device: the CPU's tokens, and no wait of the host in a call."""

from __future__ import annotations

import dataclasses

import fakecuda
import pytest
import torch
from helpers import request, tiny_policy
from rollout.test_blocks import block_requests
from rollout.test_engine import mixed_requests
from rollout.test_given import with_given

from diffpo.functional.latents import draw_batch_cuts
from diffpo.functional.random import fold
from diffpo.lab.bench.workloads import batch_of
from diffpo.models import attention
from diffpo.models.experts import ExpertsConfig
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.rollout import engine
from diffpo.rollout.cache import KeyValues
from diffpo.rollout.engine import Committed, Engine, Finished, generate
from diffpo.types import Completion, Request

RULES = ("entropy_bound:0.7", "learned", "confidence:0.4", "top_k:3", "margin:2", "steps:5", "random:2")
END = {("rollout.engine._endings", "synchronize"): 1}
"""The one wait of rollouts without caches: at their end, for the rows that have retired."""


def assert_alike(ours: Completion, theirs: Completion) -> None:
    """Identical integers, numbers to the rounding of other kernels."""
    for field in dataclasses.fields(Completion):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(mine, str | tuple):
            assert mine == other, field.name
            continue
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4, msg=lambda text, name=field.name: name + text)


def both(policy: Policy, requests: list[Request], num_slots: int = 512) -> tuple[list[Completion], fakecuda.Watch]:
    """What the device decodes, which must be what the CPU decodes, and what it waited for."""
    expected = generate(policy.to("cpu"), requests, num_slots)
    policy.to("cuda")
    with fakecuda.Watch() as watch:
        completions = generate(policy, requests, num_slots)
    for ours, theirs in zip(completions, expected, strict=True):
        assert ours.tokens.device.type == "cpu"
        assert_alike(ours, theirs)
    return completions, watch


@pytest.mark.parametrize("changes", [{}, {"block_length": 4}, {"block_length": 4, "blocks_from": "row", "shift": 1}])
def test_what_is_given_stands(cuda: None, changes: dict) -> None:
    policy = tiny_policy(2, learned=True, **changes)
    requests = with_given(policy, block_requests(24) if changes else mixed_requests(24))
    _, watch = both(policy, requests, num_slots=5)
    assert changes or watch.by_function() == END


@pytest.mark.parametrize(("sampler", "head"), [*((rule, "prompt") for rule in RULES), ("learned", "bernoulli")])
def test_no_rule_waits(cuda: None, sampler: str, head: str) -> None:
    requests = [
        request("012"[: 1 + key % 3], key, sampler, 8, block_length=(8, 3)[key % 2], temperature=(1.3, 0)[key // 2 % 2])
        for key in range(4)
    ]
    _, watch = both(tiny_policy(learned=head), requests, num_slots=3)
    assert watch.by_function() == END


@pytest.mark.parametrize(("head", "shift"), [("prompt", 1), ("state", 0), ("bernoulli", 1)])
def test_mixed_requests_do_not_wait(cuda: None, head: str, shift: int) -> None:
    """Rows come and go, windows differ in width: one wait at the end of all."""
    _, watch = both(tiny_policy(1, learned=head, shift=shift), mixed_requests(18), num_slots=5)
    assert watch.by_function() == END


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_mixtures_of_experts_do_not_wait(cuda: None, score: str) -> None:
    experts = ExpertsConfig(8, 2, 16, 16, score=score, normalized=True, groups=4, chosen_groups=2)
    _, watch = both(tiny_policy(1, experts=experts), mixed_requests(12), num_slots=5)
    assert watch.by_function() == END


@pytest.mark.parametrize("level", ["prompt", "state"])
def test_half_precision_attends_as_on_a_card(cuda: None, level: str) -> None:
    """bf16 goes through the kernel for rows of any length; behaviour log-probabilities stay close to the CPU's."""
    policy = tiny_policy(learned=level, num_heads=2, num_kv_heads=1)
    policy.denoiser.bfloat16()
    requests = [request(prompt, key, "learned", 8) for key, prompt in enumerate(("012", "6", "3131", "012"))]
    expected = generate(policy, requests)
    policy.to("cuda")
    with fakecuda.Watch() as watch:
        completions = generate(policy, requests)
    assert watch.by_function() == END
    first = [
        (c.committed_at == 1) & (e.committed_at == 1) & (c.tokens == e.tokens)
        for c, e in zip(completions, expected, strict=True)
    ]
    assert sum(int(both.sum()) for both in first) > 3
    for ours, theirs, at in zip(completions, expected, first, strict=True):
        torch.testing.assert_close(ours.behaviour_logprobs[at], theirs.behaviour_logprobs[at], atol=0.1, rtol=0.05)


@pytest.mark.parametrize("settings", [{"cache": "dual"}, {"cache": "prefix"}, {"cache": "exact", "blocks": 4}])
def test_a_kernel_that_knows_no_stores_gets_the_rows_keys(
    cuda: None, settings: dict[str, str | int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of torch 2.11: keys are gathered, once a block, and all rows still go through one kernel."""
    cache, blocks = settings["cache"], settings.get("blocks")
    policy = tiny_policy(num_heads=2, num_kv_heads=1, block_length=blocks)
    policy.denoiser.bfloat16()
    policy.to("cuda")
    requests = [
        request("0123"[: 1 + key % 4], key, "top_k:1", 8, block_length=4, cache=str(cache), early_exit=False)
        for key in range(6)
    ]
    kernels, answers, original = [], [], attention.flash()

    def attend(*given: object, **more: object) -> object:
        kernels.append(1)
        return original.attend(*given, **more)

    for takes_used in (True, False):
        kernel = original._replace(attend=attend, takes_used=takes_used)
        monkeypatch.setattr(attention, "flash", lambda kernel=kernel: kernel)
        kernels.clear()
        answers.append((generate(policy, requests, 4), len(kernels)))
    (expected, stored), (gathered, packed) = answers
    assert stored == packed > 0
    for ours, theirs in zip(gathered, expected, strict=True):
        assert_alike(ours, theirs)


BLOCKS = ({"shift": 0}, {"shift": 1}, {"causal_context": True})


@pytest.mark.parametrize("cache", ["exact", "none"])
@pytest.mark.parametrize("changes", BLOCKS, ids=str)
def test_blocks_attend_as_on_the_cpu(cuda: None, cache: str, changes: dict) -> None:
    """Rows of any length in one kernel that takes a mask, as wide as the widest; queries share keys."""
    policy = tiny_policy(num_heads=4, num_kv_heads=2, block_length=3, **changes)
    requests = [
        request(
            "0123456"[: 1 + key % 6], key, ("top_k:1", "entropy_bound:0.7")[key % 2], 8, block_length=3, cache=cache
        )
        for key in range(9)
    ]
    both(policy, requests, num_slots=4)


@pytest.mark.parametrize("changes", BLOCKS, ids=str)
def test_gradients_in_blocks_are_the_cpus(cuda: None, changes: dict) -> None:
    """A place that only fills a row up has no part in them; prompts are shared."""
    policy = tiny_policy(num_heads=4, num_kv_heads=2, block_length=3, **changes)
    requests = [request("0123456"[: 1 + key // 2], key, "top_k:1", 4 + key, block_length=3) for key in range(6)]
    batch = batch_of(requests, generate(policy, requests))
    found = {}
    for device in ("cpu", "cuda"):
        policy.to(device)
        policy.denoiser.zero_grad()
        here = batch.to(torch.device(device))
        cuts = draw_batch_cuts(here, 2, fold(torch.zeros_like(here.nfe), torch.arange(len(here), device=device)))
        scores = surrogate_logprobs(policy, here, cuts, 1.0)
        scores.sum().backward()
        gradients = [p.grad.flatten().cpu() for p in policy.denoiser.parameters() if p.grad is not None]
        found[device] = scores.detach().cpu(), torch.cat(gradients)
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cache", ["prefix", "dual", "exact"])
def test_a_call_with_a_cache_waits_once(cuda: None, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For where the blocks of its rows begin."""
    calls, original = [], KeyValues.lay_out
    monkeypatch.setattr(KeyValues, "lay_out", lambda *given: calls.append(1) or original(*given))
    requests = [
        request("012", key, "top_k:1", 8, block_length=4, cache=cache, refresh_every=key % 3) for key in range(5)
    ]
    policy = tiny_policy(**({"block_length": 4, "causal_context": True} if cache == "exact" else {}))
    expected = generate(policy, requests, 3)
    policy.to("cuda")
    calls.clear()
    with fakecuda.Watch() as watch:
        completions = generate(policy, requests, 3)
    for ours, theirs in zip(completions, expected, strict=True):
        assert_alike(ours, theirs)
    assert watch.by_function() == END | {("rollout.cache.lay_out", "copy to the host"): len(calls)}


def test_a_finished_row_makes_one_call_in_vain(cuda: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags are read a call late, also those of the rows beside one that leaves."""
    rows, original = [], engine.commit
    monkeypatch.setattr(engine, "commit", lambda *given: rows.append(len(given[2].slots)) or original(*given))
    requests = [request("012", key, f"top_k:{1 + key}", 12, early_exit=False) for key in range(6)]
    completions = generate(tiny_policy().to("cuda"), requests, num_slots=4)
    assert sum(rows) == sum(completion.nfe + 1 for completion in completions)


def test_memory_is_that_of_the_slots(cuda: None) -> None:
    """Rows that wait have no features on the device yet, and those that have retired none any more."""
    policy, length = tiny_policy(learned="state", hidden_size=128, num_heads=2).to("cuda"), 32

    def peak(count: int) -> int:
        requests = [request("012", key, "learned", length, early_exit=False) for key in range(count)]
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        generate(policy, requests, num_slots=2)
        return torch.cuda.max_memory_allocated() - before

    features_of_a_row = 4 * 128 * length
    assert peak(18) - peak(2) < 16 * features_of_a_row / 8


def test_rows_without_a_learned_threshold_have_no_features(cuda: None) -> None:
    running = Engine(tiny_policy(learned="state").to("cuda"))
    running.submit(request(sampler="top_k:1"))
    running.step()
    assert len(running._slots) == 1 and running._slots.features.numel() == 0


def test_watching_calls_shows_the_same(cuda: None) -> None:
    """A stream waits no more often, and tells what it tells on the CPU, in each row's order."""
    seen: dict[str, list[tuple[int, int, list[int], list[int]]]] = {}
    for device in ("cpu", "cuda"):
        running = Engine(tiny_policy(learned=True).to(device), num_slots=3, stream=True)
        for asked in mixed_requests(8):
            running.submit(asked)
        with fakecuda.Watch() as watch:
            told = [event for event in running.run() if isinstance(event, Committed)]
        assert watch.by_function() == (END if device == "cuda" else {})
        seen[device] = sorted((e.ticket, e.call, e.positions.tolist(), e.tokens.tolist()) for e in told)
    assert seen["cpu"] == seen["cuda"]


def test_a_call_is_told_with_the_weights_that_made_it(cuda: None) -> None:
    """On a GPU it is told a call late, when others may be there."""
    for device in ("cpu", "cuda"):
        running = Engine(tiny_policy().to(device), stream=True)
        running.submit(request(sampler="top_k:1", gen_length=4))
        told = [*running.step(), *running.step()]
        running.load_weights({}, version=7)
        told += running.run()
        calls = [event for event in told if isinstance(event, Committed)]
        assert [(event.call, event.version) for event in calls] == [(1, 0), (2, 0), (3, 7), (4, 7)]


def test_rows_may_come_and_be_cancelled_without_a_wait(cuda: None) -> None:
    """But for the one at the end."""
    policy, requests = tiny_policy(2, learned=True), mixed_requests(12)
    expected = generate(policy, requests)
    running, found = Engine(policy.to("cuda"), num_slots=4), {}
    with fakecuda.Watch() as watch:
        for step in range(200):
            if step < len(requests):
                running.submit(requests[step])
            if step == 3:
                running.cancel(3)
            found |= {event.ticket: event.completion for event in running.step() if isinstance(event, Finished)}
    assert found.keys() == {*range(12)} - {3}
    for ticket, completion in found.items():
        assert_alike(completion, expected[ticket])
    assert watch.by_function() == END


@pytest.mark.parametrize("sampler", ["top_k:2", "learned"])
def test_numbers_that_are_not_finite_are_an_error_that_nobody_waits_for(cuda: None, sampler: str) -> None:
    policy = tiny_policy(learned=True).to("cuda")
    with torch.no_grad():
        policy.denoiser.norm.weight[0] = float("nan")
    with fakecuda.Watch() as watch, pytest.raises(FloatingPointError, match=r"the weight norm\.weight"):
        generate(policy, [request("012", key, sampler) for key in range(3)])
    assert {wait.function for wait in watch.waits} == {"models.finite.bad_weight"}
