"""Requests from configs, and prompts to scored groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import FirstDigitTask, tiny_policy

from diffpo.config import RolloutConfig
from diffpo.evaluation.evaluate import evaluate
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.rewards.calls import Reward, Rewards
from diffpo.rollout.engine import generate
from diffpo.rollout.local import collect, make_request, sample, stream
from diffpo.tasks import load_task
from diffpo.training.loop import train
from diffpo.training.sft import fine_tune
from diffpo.types import Prompt, Request, Sampler, Verdict

CONFIG = RolloutConfig(sampler="top_k:2", temperature=0.9, block_length=3, num_slots=7)


def test_a_request_takes_its_settings_from_the_config() -> None:
    policy = tiny_policy()
    asked = make_request(policy, "012", CONFIG, gen_length=6, key=5)
    assert (asked.prompt_ids, asked.key, asked.gen_length, asked.block_length) == ((0, 1, 2), 5, 6, 3)
    assert (asked.sampler, asked.temperature, asked.early_exit) == (Sampler("top_k", 2.0), 0.9, True)
    own = make_request(policy, "012", RolloutConfig(gen_length=4), gen_length=6, key=5, early_exit=False)
    assert (own.gen_length, own.block_length, own.early_exit) == (4, 4, False)


def test_groups_hold_the_scored_completions_of_their_prompts() -> None:
    policy, task = tiny_policy(), FirstDigitTask()
    policy.version = 3
    prompts = task.prompts("train", 5)
    groups = collect(policy, task, prompts, 4, CONFIG, seed=1)
    assert [group.prompt for group in groups] == prompts
    for group in groups:
        assert group.prompt_ids == policy.tokenizer.encode(group.prompt.text) and len(group.rollouts) == 4
        for index, rollout in enumerate(group.rollouts):
            key = make_key(1, group.prompt.id, index)
            alone = generate(policy, [make_request(policy, group.prompt.text, CONFIG, task.gen_length, key)])[0]
            assert torch.equal(rollout.completion.tokens, alone.tokens)
            assert rollout.text == policy.tokenizer.decode(alone.tokens.tolist())
            assert rollout.verdict == task.verify(group.prompt, rollout.text)
            assert rollout.reward == rollout.verdict.reward and rollout.completion.versions == ((1, 3),)


@pytest.mark.parametrize("reward", [math.inf, math.nan, -1e39])
def test_a_verdict_whose_reward_is_no_number_names_its_prompt(reward: float, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, task = tiny_policy(), FirstDigitTask()
    monkeypatch.setattr(task, "verify", lambda prompt, completion: Verdict(True, reward))
    with pytest.raises(ValueError, match=r"task 'fake' on prompt 'train-0' gave completion 0 the reward .*not a fin"):
        collect(policy, task, task.prompts("train", 2), 2, CONFIG, seed=1)


def test_groups_do_not_depend_on_the_other_prompts_and_differ_between_seeds() -> None:
    policy, task = tiny_policy(), FirstDigitTask()
    prompts = task.prompts("train", 3)

    def texts(chosen: list, seed: int) -> list[str]:
        return [r.text for group in collect(policy, task, chosen, 4, CONFIG, seed) for r in group.rollouts]

    assert texts(prompts, 0)[4:8] == texts(prompts[1:2], 0)
    assert texts(prompts, 0) != texts(prompts, 1)


def test_speed_pays_where_the_answer_is_right_and_the_group_mastered() -> None:
    policy, task = tiny_policy(), FirstDigitTask()
    groups = collect(policy, task, task.prompts("train", 24), 4, CONFIG, 0, speed_weight=0.5, speed_gate=0.5)
    paid = 0
    for group in groups:
        mastered = sum(rollout.verdict.correct for rollout in group.rollouts) >= 2
        for rollout in group.rollouts:
            bonus = 0.5 * (1 - rollout.completion.nfe / task.gen_length) * (rollout.verdict.correct and mastered)
            assert rollout.reward == pytest.approx(rollout.verdict.reward * (1 + bonus))
            paid += bonus > 0
    assert paid, "no rollout earned a bonus: this test means nothing"


def test_a_verifier_that_raises_is_reported_with_its_prompt() -> None:
    task = FirstDigitTask(fragile=True)
    with pytest.raises(RuntimeError, match=r"'fake'.*KeyError.*'train-1', generation 0") as caught:
        collect(tiny_policy(), task, task.prompts("train", 3)[1:], 2, CONFIG, 0)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (None, "None: not a Verdict"),
        (True, "True: not a Verdict"),
        (Verdict("no", 1.0), "the verdict 'no': correct is True or False"),  # type: ignore[arg-type]
        (Verdict(True, "1.0"), "the reward '1.0': not a finite number"),  # type: ignore[arg-type]
        (Verdict(True, 1.0, {"form": None}), "the part 'form' None: not a number"),  # type: ignore[dict-item]
    ],
)
def test_a_verdict_that_is_none_is_reported_with_its_prompt(verdict: Verdict, said: str) -> None:
    """Text for a truth value, "no" say, would be right; what else is wrong ended deep in the metrics."""
    task = FirstDigitTask()
    task.verify = lambda prompt, completion: verdict
    with pytest.raises(ValueError, match=rf"task 'fake' on prompt 'train-0' gave completion 0 {said}"):
        collect(tiny_policy(), task, task.prompts("train", 1), 2, CONFIG, 0)


def test_a_verdict_may_have_the_numbers_of_numpy_and_torch() -> None:
    task = FirstDigitTask()
    task.verify = lambda prompt, completion: Verdict(np.bool_(True), torch.tensor(0.5), {"form": np.float32(2)})  # type: ignore[arg-type, dict-item]
    (group,) = collect(tiny_policy(), task, task.prompts("train", 1), 2, CONFIG, 0)
    assert {repr(rollout.verdict) for rollout in group.rollouts} == {repr(Verdict(True, 0.5, {"form": 2.0}))}


def test_an_unknown_character_is_named() -> None:
    with pytest.raises(ValueError, match="'x'"):
        sample(tiny_policy(), ["01x"])


@pytest.mark.parametrize("content", [None, 5, [{"type": "image"}]])
def test_a_message_without_text_is_named(content: object) -> None:
    with pytest.raises(ValueError, match=r"^prompt 2: message 1 must "):
        sample(tiny_policy(), ["012", [{"role": "user", "content": content}]])
    with pytest.raises(ValueError, match=r"^prompt 1 must be text or a list of"):
        sample(tiny_policy(), [content if isinstance(content, int) else []])


def test_a_prompt_that_stands_alone_is_not_taken_for_many() -> None:
    with pytest.raises(ValueError, match=r"list of prompts: \['012'\]"):
        sample(tiny_policy(), "012")


def test_samples_are_greedy_and_without_noise_unless_asked() -> None:
    policy = tiny_policy(learned=True)
    texts = sample(policy, ["012", "012", "3"], seed=0)
    assert [c.text for c in texts] == [c.text for c in sample(policy, ["012", "012", "3"], seed=9)]
    assert texts[0].text == texts[1].text and texts[0].gamma is not None
    hot = RolloutConfig(sampler="top_k:1", temperature=2.0)
    drawn = sample(policy, ["012"] * 6, hot)
    assert len({c.text for c in drawn}) > 1 and drawn[0].gamma is None
    assert [c.text for c in drawn] == [c.text for c in sample(policy, ["012"] * 6, hot)]
    with pytest.raises(ValueError, match="gen_length must be >= 1, got 0"):
        sample(policy, ["012"], hot, gen_length=0)


def test_a_canvas_that_is_asked_for_is_given() -> None:
    """Where the policy's own decoding names another; a config that the call gives has precedence."""
    policy = tiny_policy()
    policy.rollout = RolloutConfig(sampler="top_k:1", gen_length=8)
    assert [len(c.tokens) for c in sample(policy, ["012"])] == [8]
    assert [len(c.tokens) for c in sample(policy, ["012"], gen_length=4)] == [4]
    assert list(stream(policy, "012", gen_length=4))[-1].completion.tokens.shape == (4,)
    assert [len(c.tokens) for c in sample(policy, ["012"], policy.rollout, gen_length=4)] == [8]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda policy: sample("runs/rl", ["0"]), "policy must be a Policy, got 'runs/rl'"),
        (lambda policy: sample(["0"], policy), "policy must be a Policy"),
        (lambda policy: sample(policy, ["0"], "top_k:1"), "config must be a RolloutConfig, got 'top_k:1'"),
        (lambda policy: sample(policy, Prompt("a", "0")), "takes a list of prompts"),
        (lambda policy: sample(policy, ["0"], gen_length="8"), "gen_length must be int, got '8'"),
        (lambda policy: sample(policy, ["0"], seed=None), "seed must be a whole number, got None"),
        (lambda policy: stream(policy, "0", "top_k:1"), "config must be a RolloutConfig"),
        (lambda policy: generate(policy, ["0"]), "a request must be a Request, got '0'"),
        (lambda policy: generate(policy, [request(policy, prompt_ids=[0])]), "prompt_ids must be a tuple"),
        (lambda policy: generate(policy, [request(policy, gen_length=8.0)]), "gen_length must be a whole number"),
        (lambda policy: generate(policy, [request(policy, sampler="top_k:1")]), "sampler must be a Sampler"),
        (lambda policy: collect(policy, FirstDigitTask(), [], 0, CONFIG, 0), "num_generations must be >= 1"),
        (lambda policy: evaluate("runs/rl", FirstDigitTask()), "policy must be a Policy"),
        (lambda policy: evaluate(policy, "tiny_sudoku"), "task must be a Task, got 'tiny_sudoku'"),
        (lambda policy: evaluate(policy, FirstDigitTask(), 4), "config must be a EvalConfig"),
        (lambda policy: train("sudoku_tiny"), "config must be a TrainConfig, got 'sudoku_tiny'"),
        (lambda policy: fine_tune("sudoku_tiny_pretrain"), "config must be a SftConfig"),
        (lambda policy: load_task(None), "config must be a TaskConfig, got None"),
    ],
)
def test_arguments_of_another_kind_are_told_which_is_wanted(call: Callable[[Policy], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call(tiny_policy())


def request(policy: Policy, **changes: object) -> Request:
    return replace(make_request(policy, "0", CONFIG, 6, key=0), **changes)


def test_steps_spread_evenly_over_the_blocks() -> None:
    blocks = RolloutConfig(sampler="steps:4", gen_length=8, block_length=4)
    assert make_request(tiny_policy(), "012", blocks, 8, key=0).sampler == Sampler("steps", 4)
    for sampler in ("steps:3", "steps:10"):
        with pytest.raises(ValueError, match=r"multiple of the 2 block\(s\), at most gen_length = 8"):
            make_request(tiny_policy(), "012", replace(blocks, sampler=sampler), 8, key=0)


def test_judging_begins_while_others_are_decoded() -> None:
    """A group is judged once its last completion is there; what comes of it is the same as afterwards."""
    calls, begun = [0], []

    async def first(completions, prompts):
        begun.append(calls[0])
        return [float(text[:1] == prompts[0][0]) for text in completions]

    policy, plain = tiny_policy(), FirstDigitTask()
    policy.denoiser.register_forward_pre_hook(lambda module, inputs: calls.__setitem__(0, calls[0] + 1))
    task = FirstDigitTask(rewards=Rewards((Reward("digit", first),)))
    prompts = plain.prompts("train", 6)
    groups = collect(policy, task, prompts, 2, replace(CONFIG, num_slots=2), seed=1)
    total = calls[0]
    assert len(begun) == 6 and min(begun) < total / 2
    expected = collect(policy, plain, prompts, 2, CONFIG, seed=1)
    assert [[r.reward for r in group.rollouts] for group in groups] == [
        [r.reward for r in group.rollouts] for group in expected
    ]


def test_the_template_is_rendered_once_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = Policy.encode
    monkeypatch.setattr(
        Policy, "encode", lambda self, prompt, *rest: seen.append(prompt) or encode(self, prompt, *rest)
    )
    collect(tiny_policy(), FirstDigitTask(), FirstDigitTask().prompts("train", 3), 4, CONFIG, seed=1)
    assert len(seen) == 3
