"""Calling reward functions with a group: what they get, what may come back, and what is said of what may not."""

from __future__ import annotations

import asyncio
import math
import os
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from diffpo.rewards import functions
from diffpo.rewards.calls import Reward, Rewards, TrainerState
from diffpo.rewards.functions import BUILTIN
from diffpo.rollout.judging import Judging
from diffpo.types import Attempts, Judged, Prompt

TEXTS = ["5", "it is 5", "skip"]
CHAT = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 5?"})


class FakeTask:
    """A task of reward functions alone."""

    name, gen_length = "fake", 8

    def __init__(self, *functions: Callable[..., Any], weights: tuple[float, ...] = ()) -> None:
        pairs = zip(functions, weights or [1.0] * len(functions), strict=True)
        self.rewards = Rewards(tuple(Reward(f.__name__, f, weight) for f, weight in pairs))


def prompt(**columns: object) -> Prompt:
    return Prompt("my-train-0", "What is 5?", columns={"answer": "5", **columns}, place="my.jsonl, line 7")


def judged(*functions: Callable[..., Any], ask: Prompt | None = None, weights: tuple[float, ...] = ()) -> Judged:
    judging = Judging(FakeTask(*functions, weights=weights), TrainerState(3, 10))
    judging.add(0, Attempts(ask or prompt(), TEXTS, [(1,), (1, 2), (1, 2, 3)]))
    return judging.finish()[0]


def values(*functions: Callable[..., Any], **settings: Any) -> list[float | None]:
    return [verdict.reward for verdict in judged(*functions, **settings).verdicts]


# --- what they get -----------------------------------------------------------------------------------------------


def test_a_function_that_changes_the_working_folder_leaves_it(tmp_path: Path) -> None:
    def wanders(completions):
        os.chdir(tmp_path)
        return [1.0] * len(completions)

    before = Path.cwd()
    assert values(wanders) == [1.0] * 3
    assert Path.cwd() == before != tmp_path


def test_a_function_that_sets_up_torch_for_itself_leaves_the_runs() -> None:
    def sets_up(completions):
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        return [1.0] * len(completions)

    assert values(sets_up) == [1.0] * 3
    made = torch.zeros(1, requires_grad=True) * 2
    assert made.requires_grad and (made.dtype, made.device.type) == (torch.float32, "cpu")


def test_a_function_sees_the_whole_group() -> None:
    def longest(completions):
        return [float(len(text) == max(map(len, completions))) for text in completions]

    assert values(longest) == [0.0, 1.0, 0.0]


def test_a_function_gets_what_it_names() -> None:
    seen = {}

    def names(prompts, completions, completion_ids, trainer_state, log_metric, log_extra, answer, missing="default"):
        seen.update(locals())
        log_metric("length", max(map(len, completions)))
        log_extra("guess", [text[-1] for text in completions])
        return [1] * 3

    found = judged(names)
    assert (seen["prompts"], seen["completions"], seen["answer"]) == (["What is 5?"] * 3, TEXTS, ["5"] * 3)
    assert seen["completion_ids"] == [[1], [1, 2], [1, 2, 3]] and seen["missing"] == "default"
    assert (seen["trainer_state"].global_step, seen["trainer_state"].max_steps) == (3, 10)
    assert found.metrics == {"length": 7.0}
    assert [verdict.extra for verdict in found.verdicts] == [{"guess": "5"}, {"guess": "5"}, {"guess": "p"}]


def test_keyword_arguments_take_everything() -> None:
    seen = set()

    def everything(**kwargs):
        seen.update(kwargs)
        return [0.0] * 3

    given = {"prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra"}
    values(everything, ask=prompt(place="Oslo"))
    assert seen == given | {"answer", "place"}, "a column may be called place"


def test_conversations_are_given_as_they_are() -> None:
    def messages(prompts, completions):
        assert prompts == [CHAT] * 3
        return [float(reply == [{"role": "assistant", "content": "<a>5"}]) for reply in completions]

    ask = Prompt("x", "Be brief.\n\nWhat is 5?", messages=CHAT, prefill="<a>")
    assert values(messages, ask=ask) == [1.0, 0.0, 0.0]


def test_what_a_function_changes_is_its_own() -> None:
    def greedy(prompts, answer):
        answer[0].append("x")
        prompts[0].clear()
        return [len(answer[0])] * 3

    ask = Prompt("x", "q", columns={"answer": ["5"]}, messages=[dict(turn) for turn in CHAT])
    assert values(greedy, ask=ask) == values(greedy, ask=ask) == [2.0] * 3
    assert ask.columns == {"answer": ["5"]} and list(ask.messages) == list(CHAT)


# --- what may come back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "found",
    [
        [1, 0.5, True],
        (1.0, 0.5, 1.0),
        np.array([1.0, 0.5, 1.0], dtype=np.float16),
        torch.tensor([1.0, 0.5, 1.0], dtype=torch.bfloat16, requires_grad=True),
        [np.float32(1), Fraction(1, 2), Decimal(1)],
        [torch.tensor(1), torch.tensor(0.5), np.bool_(True)],
        {"a": 1.0, "b": 0.5, "c": 1.0}.values(),
    ],
    ids=lambda found: type(found).__name__,
)
def test_numbers_of_all_kinds(found: Any) -> None:
    assert values(lambda completions: found) == [1.0, 0.5, 1.0]


def test_none_leaves_a_completion_out() -> None:
    def sometimes(completions):
        return [None if text == "skip" else 0.5 for text in completions]

    def half(completions):
        return [0.25] * 3

    alone, beside = judged(sometimes).verdicts[2], judged(sometimes, half).verdicts[2]
    assert alone.reward is None and not alone.correct and math.isnan(alone.parts["sometimes"])
    assert beside.reward == 0.25 and math.isnan(beside.parts["sometimes"])


def test_weights() -> None:
    def accuracy(completions, answer):
        return [float(truth == text) for text, truth in zip(completions, answer, strict=True)]

    def size(completions):
        return [len(text) for text in completions]

    verdicts = judged(accuracy, size, weights=(1.0, -0.5)).verdicts
    assert [v.reward for v in verdicts] == [0.5, -3.5, -2.0] and [v.correct for v in verdicts] == [True, False, False]
    assert verdicts[1].parts == {"accuracy": 0.0, "size": 7.0}
    assert not any(v.correct for v in judged(lambda completions: [0.5] * 3, accuracy).verdicts), "the first says so"


def test_what_weighs_nothing_is_no_reward_for_what_is_left_out() -> None:
    def half(completions):
        return [1.0, 0.0, None]

    def size(completions):
        return [len(text) for text in completions]

    verdicts = judged(half, size, weights=(1.0, 0.0)).verdicts
    assert [v.reward for v in verdicts] == [1.0, 0.0, None] and all(v.parts["size"] > 0 for v in verdicts)


# --- what may not ----------------------------------------------------------------------------------------------------


def fails(completions):
    raise KeyError("no such\ncolumn")


async def fails_late(completions):
    await asyncio.sleep(0)
    fails(completions)


async def leaves(completions):
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda completions: [1.0, math.inf, 0.0], "returned inf for completion 1: not a finite number (within 1e+18)"),
        (lambda completions: [1.0, 0.0, math.nan], "returned nan for completion 2: not a finite number"),
        (lambda completions: [1e39, 0.0, 0.0], "returned 1e+39 for completion 0"),
        (lambda completions: [10**400, 0.0, 0.0], "for completion 0: not a finite number"),
        (lambda completions: np.array([0.0, np.nan, 0.0]), "returned nan for completion 1"),
        (lambda completions: ["high", 0.0, 0.0], "returned 'high' for completion 0"),
        (lambda completions: ["1.0", 0.0, 0.0], "returned '1.0' for completion 0"),
        (lambda completions: [[1.0], [0.0], [0.0]], "returned [1.0] for completion 0"),
        (lambda completions: np.zeros((3, 1)), "returned [0.0] for completion 0"),
        (lambda completions: [1j, 0.0, 0.0], "returned 1j for completion 0"),
        (lambda completions: [1.0], "returned 1 values: not a list of 3, a number or None for each completion"),
        (lambda completions: 1.0, "returned 1.0: not a list of 3"),
        (lambda completions: torch.tensor(1.0), "returned tensor(1.): not a list of 3"),
        (lambda completions: None, "returned None: not a list of 3"),
        (lambda completions: "abc", "returned 'abc': not a list of 3"),
        (lambda completions: {"a": 1, "b": 2, "c": 3}, "returned {'a': 1, 'b': 2, 'c': 3}: not a list of 3"),
        (lambda log_metric: log_metric("x", math.nan), "log_metric('x', nan): not a finite number"),
        (lambda log_extra: log_extra("x", [1]), "log_extra('x'): 1 values for 3 completions"),
        (lambda completions, question: [], "takes 'question', which is no column (columns: answer)"),
        (
            lambda completion: [],
            "takes 'completion', which is no column (columns: answer); did you mean 'completions'?",
        ),
        (lambda completions: exit(3), "raised SystemExit: 3 (" + __file__),
        (leaves, "raised RuntimeError: SystemExit: 3 (" + __file__),
        (fails, "raised KeyError: 'no such\\ncolumn' (" + __file__),
        (fails_late, "raised KeyError: 'no such\\ncolumn' (" + __file__),
    ],
)
def test_an_error_names_reward_row_and_value(function: Callable[..., Any], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        values(function)
    said = str(caught.value)
    assert error in said and "\n" not in said and function.__name__ in said
    assert "my.jsonl, line 7" in said or "takes" in said


def test_weighted_sums_are_bounded_too() -> None:
    with pytest.raises(ValueError, match=r"my.jsonl, line 7: weighted rewards sum to 1e\+20"):
        values(lambda completions: [1e10] * 3, weights=(1e10,))


# --- order and time -----------------------------------------------------------------------------------------------


def test_coroutines_of_all_groups_run_together() -> None:
    running, most = 0, 0

    async def slow(completions):
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await asyncio.sleep(0.2)
        running -= 1
        return [1.0] * len(completions)

    start = time.perf_counter()
    judging = Judging(FakeTask(slow))
    for index in range(32):
        judging.add(index, Attempts(prompt(), ["a"], [()]))
    assert [group.verdicts[0].reward for group in judging.finish()] == [1.0] * 32
    assert most == 32 and time.perf_counter() - start < 32 * 0.2


def test_plain_functions_are_called_in_order_by_the_thread_that_asks() -> None:
    seen: list[tuple[str, int]] = []

    def count(completions):
        seen.append((completions[0], threading.get_ident()))
        return [len(seen)]

    judging = Judging(FakeTask(count))
    for index in (2, 0, 1):
        judging.add(index, Attempts(prompt(), [str(index)], [()]))
    assert [group.verdicts[0].reward for group in judging.finish()] == [1.0, 2.0, 3.0]
    assert seen == [(name, threading.get_ident()) for name in ("0", "1", "2")]


def test_async_rewards_inside_a_running_loop() -> None:
    async def five(completions):
        return [5] * 3

    def returns_a_coroutine(completions):
        return five(completions)

    async def notebook() -> list[float | None]:
        return [*values(five), *values(returns_a_coroutine)]

    assert asyncio.run(notebook()) == [5.0] * 6


# --- before the first step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "columns", "error"),
    [
        (
            "number",
            {"answer": "no idea"},
            "my.jsonl, line 7: reward 'number': column 'answer' holds no number, got 'no",
        ),
        ("number", {"answer": None}, "no column answer, so that no reward can judge its completions"),
        ("math", {"answer": " "}, "reward 'math': column 'answer' holds no answer in text"),
        ("math", {"question": "x"}, "reward 'math' takes 'answer', which is no column (columns: question)"),
        ("number", {"answer": "5", "completion_ids": "5"}, "column 'completion_ids' would hide what the run gives"),
    ],
)
def test_rows_that_could_never_be_judged(reward: str, columns: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        Rewards((BUILTIN[reward],)).check([Prompt("x", "q", columns=columns, place="my.jsonl, line 7")])
    assert error in str(caught.value)


def test_rewards_of_several_kinds_of_rows() -> None:
    rewards = Rewards((BUILTIN["number"], BUILTIN["code"]))
    rows = [{"answer": "5", "tests": None}, {"answer": None, "tests": "assert f() == 5"}]
    rewards.check([Prompt("x", "q", columns=row) for row in rows])
    with pytest.raises(ValueError, match="no column answer or test or tests"):
        rewards.check([Prompt("x", "q", columns={"answer": None, "tests": None})])
    code = Prompt("x", "q", columns={"answer": None, "tests": "assert f() == 5"})
    call = rewards.begin(Attempts(code, ["def f():\n    return 5", "def f():\n    return 6"], [(), ()]), TrainerState())
    assert [(v.correct, v.reward) for v in call.finish().verdicts] == [(True, 1.0), (False, 0.0)]


def verdict(name: str, completion: str, **columns: object) -> float | None:
    call = Rewards((BUILTIN[name],)).begin(Attempts(prompt(**columns), [completion], [()]), TrainerState())
    call.run_plain()
    return call.finish().verdicts[0].reward


def test_built_in_rewards() -> None:
    assert verdict("number", r"\boxed{5 apples}") == 1.0
    assert verdict("number", "5") == 0.0
    assert verdict("number", r"\boxed{72}", answer="She sold 48/2 = 24 in May.\n#### 72") == 1.0
    assert verdict("number", r"\boxed{72}", answer=72.0) == 1.0
    assert verdict("number", "5", answer=None) is None
    assert verdict("math", r"\boxed{\frac{10}{2}}") == 1.0


@pytest.mark.parametrize("name", ["math", "number"])
def test_answers_of_a_group_are_judged_side_by_side(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three wait for each other: one after the other they would never be through."""
    together = threading.Barrier(3, timeout=20)

    def strict(columns: dict[str, Any], completion: str) -> SimpleNamespace:
        together.wait()
        return SimpleNamespace(reward=float("5" in completion))

    monkeypatch.setattr(functions, "strict", strict)
    judging = Judging(FakeTask(BUILTIN[name].function))
    judging.add(0, Attempts(prompt(), TEXTS, [(1,)] * 3))
    assert [verdict.reward for verdict in judging.finish()[0].verdicts] == [1.0, 1.0, 0.0]
