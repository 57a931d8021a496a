"""Countdown: verdicts, dial, split."""

from __future__ import annotations

import re

import pytest

from diffpo.config import TaskConfig
from diffpo.grading.expressions import evaluate_expression
from diffpo.tasks.tiny_countdown import MAX_TARGET, MAX_VALUE, TinyCountdown
from diffpo.types import Prompt

PROMPT = Prompt("hand-made", "3,7,12=16:", columns={"numbers": (3, 7, 12), "target": 16, "solution": "12+7-3"})


@pytest.fixture(scope="module")
def task() -> TinyCountdown:
    return TinyCountdown(TaskConfig(name="tiny_countdown"))


@pytest.mark.parametrize(
    ("answer", "correct", "numbers"),
    [
        ("12+7-3", True, True),
        ("-3+7+12", True, True),
        (" ( 12 - 3 ) + 7 ", True, True),
        ("12+7-3=16", True, True),
        ("12+7-3=17", True, True),  # the expression counts, not what is said of it
        ("7+9=16\n12+7-3", True, True),
        ("so <answer>1</answer> no <answer>12+7-3</answer>.", True, True),
        (r"<answer>\boxed{12 + 7 - 3}</answer>", True, True),
        ("12+7\u22123", True, True),
        (r"12 \times 7 - 3", False, True),
        ("12+7+3", False, True),
        ("12+7-3\n12+7+3", False, True),
        ("16", False, False),
        ("12+4", False, False),
        ("12+7-3+3-3", False, False),
        ("12+7-(3*1)", False, False),
        ("127-3", False, False),
        ("12+7-3 or 3", False, False),
        ("12+7-3;", False, False),
        ("16=12+7-3", False, False),
        ("7**(12/3)", False, False),
        ("12//7+3", False, False),
        ("3/(7+12", False, False),
        ("", False, False),
    ],
)
def test_verdicts(task: TinyCountdown, answer: str, correct: bool, numbers: bool) -> None:
    verdict = task.verify(PROMPT, answer)
    assert verdict.correct is correct
    assert verdict.reward == float(correct)
    assert verdict.parts == {"correct": float(correct), "numbers": float(numbers)}


def test_fractions_are_exact(task: TinyCountdown) -> None:
    prompt = Prompt("classic", "1,3,4,6=24:", columns={"numbers": [1, 3, 4, 6], "target": 24})
    assert task.verify(prompt, "6/(1-3/4)").correct
    near = Prompt("near", "1,3,3=1:", columns={"numbers": [1, 3, 3], "target": 1})
    assert task.verify(near, "1/3*3").correct
    assert not task.verify(near, "(1/3)/3").correct


def test_dial_counts_numbers(task: TinyCountdown) -> None:
    counts: dict[str, set[int]] = {"easy": set(), "hard": set()}
    for prompt in task.prompts("train", 100):
        *numbers, target = map(int, re.findall(r"\d+", prompt.text))
        assert re.fullmatch(r"[ \d]\d(,[ \d]\d)+=[ \d]\d:", prompt.text)
        assert all(1 <= number <= MAX_VALUE for number in numbers) and 1 <= target <= MAX_TARGET
        assert (tuple(numbers), target) == (prompt.columns["numbers"], prompt.columns["target"])
        counts[prompt.level].add(len(numbers))
    assert counts == {"easy": {3}, "hard": {4}}


def test_solutions_have_one_layout_and_the_targets_value(task: TinyCountdown) -> None:
    for prompt in task.prompts("train", 60):
        solution = task.solution(prompt)
        assert re.fullmatch(r"[ \d]\d([-+*/][ \d]\d)+", solution)
        assert evaluate_expression(solution) == (
            prompt.columns["target"],
            [int(n) for n in re.findall(r"\d+", solution)],
        )


@pytest.mark.parametrize("num_numbers", [2, 5, 6])
def test_answers_fit_at_every_dial(num_numbers: int) -> None:
    span = (num_numbers, num_numbers)
    task = TinyCountdown(TaskConfig(name="tiny_countdown", easy=span, hard=span))
    assert task.gen_length == 4 * num_numbers
    for prompt in task.prompts("train", 20):
        assert task.verify(prompt, task.solution(prompt)).correct
        assert len(task.solution(prompt)) < task.gen_length


def test_no_reordering_crosses_the_split() -> None:
    """Two numbers make few problems, so that each occurs in many orders."""
    task = TinyCountdown(TaskConfig(name="tiny_countdown", easy=(2, 2), hard_share=0.0))
    problems = {
        split: {str(sorted(re.findall(r"\d+", p.text.partition("=")[0]))) + p.text.partition("=")[2] for p in prompts}
        for split, prompts in (("train", task.prompts("train", 400)), ("test", task.prompts("test", 60)))
    }
    assert problems["train"].isdisjoint(problems["test"])
