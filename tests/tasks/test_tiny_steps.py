"""Arithmetic step by step: verdicts, dial, and steps that are right."""

from __future__ import annotations

import operator
import re

import pytest

from diffpo.config import TaskConfig
from diffpo.tasks.tiny_steps import TinySteps
from diffpo.types import Prompt

PROMPT = Prompt("hand-made", "07+8-9*3 =", columns={"solution": "+8=15-9=06*3=18", "answer": 18})
TASK = TinySteps(TaskConfig(name="tiny_steps"))
APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@pytest.mark.parametrize(
    ("answer", "correct", "steps"),
    [
        ("+8=15-9=06*3=18", True, 1.0),
        (" +8=15-9=06*3=18\n", True, 1.0),
        ("+8=16-9=06*3=18", True, 2 / 3),  # the answer counts, steps are logged
        ("18", True, 0.0),
        ("+8=15-9=06*3=81", False, 2 / 3),
        ("+8=15-9=06", False, 2 / 3),
        ("+8=15-9=06*3=18=", False, 1.0),
        ("+8=15-9=06*3=018", False, 2 / 3),
        ("+8=15-9=06*3=1_", False, 2 / 3),
        ("", False, 0.0),
    ],
)
def test_verdicts(answer: str, correct: bool, steps: float) -> None:
    verdict = TASK.verify(PROMPT, answer)
    assert (verdict.correct, verdict.reward) == (correct, float(correct))
    assert verdict.parts == {"correct": float(correct), "steps": pytest.approx(steps)}


def test_steps_are_right_and_the_dial_counts_them() -> None:
    counts: dict[str, set[int]] = {"easy": set(), "hard": set()}
    for prompt in TASK.prompts("train", 200):
        operations = re.findall(r"([-+*])(\d)", prompt.text)
        assert re.fullmatch(r"\d\d([-+*]\d)+ *=", prompt.text) and len(prompt.text) == 2 + 2 * 12 + 1
        value, written = int(prompt.text[:2]), ""
        for sign, operand in operations:
            value = APPLY[sign](value, int(operand))
            assert 0 <= value <= 99
            written += f"{sign}{operand}={value:02}"
        assert written == TASK.solution(prompt) and value == prompt.columns["answer"]
        assert len(written) < TASK.gen_length == 64
        counts[prompt.level].add(len(operations))
    assert counts == {"easy": {5, 6}, "hard": {11, 12}}


def test_values_are_what_the_prompt_leaves_open() -> None:
    assert [TASK.solution(PROMPT)[i] for i in TASK.open_positions(PROMPT)] == list("150618")
