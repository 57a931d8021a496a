"""Chained arithmetic: verdicts, dial, split."""

from __future__ import annotations

import re

import pytest

from diffpo.config import TaskConfig
from diffpo.tasks.tiny_arithmetic import TinyArithmetic
from diffpo.types import Prompt

PROMPT = Prompt("hand-made", "3-5+9=", columns={"answer": "7"})


@pytest.mark.parametrize(
    "answer", ["7", " 7\n", "+7", "7.0", "07", "$7", "14/2", "hm\n7", r"\boxed{7}", "seven", "7e0"]
)
def test_right_answers(answer: str) -> None:
    assert TinyArithmetic(TaskConfig(name="tiny_arithmetic")).verify(PROMPT, answer).reward == 1.0


@pytest.mark.parametrize("answer", ["", "-7", "77", "7 8", "7\n8", "7.01", "3-5+9", "7="])
def test_wrong_answers(answer: str) -> None:
    assert TinyArithmetic(TaskConfig(name="tiny_arithmetic")).verify(PROMPT, answer).reward == 0.0


def terms(text: str) -> tuple[int, ...]:
    return tuple(int(term) for term in re.findall(r"[+-]?\d+", text))


def test_dial_counts_terms_and_the_answer_is_their_sum() -> None:
    counts: dict[str, set[int]] = {"easy": set(), "hard": set()}
    for prompt in TinyArithmetic(TaskConfig(name="tiny_arithmetic")).prompts("train", 300):
        assert re.fullmatch(r"\d([+-]\d)+=", prompt.text)
        assert sum(terms(prompt.text)) == int(str(prompt.columns["answer"]))
        counts[prompt.level].add(len(terms(prompt.text)))
    assert counts == {"easy": {2, 3}, "hard": {5, 6}}


def test_no_reordering_crosses_the_split() -> None:
    task = TinyArithmetic(TaskConfig(name="tiny_arithmetic", easy=(2, 3), hard_share=0.0))
    train = {tuple(sorted(terms(prompt.text))) for prompt in task.prompts("train", 3000)}
    test = {tuple(sorted(terms(prompt.text))) for prompt in task.prompts("test", 1000)}
    assert len(test) > 50 and train.isdisjoint(test)


def test_canvas_holds_the_extremes() -> None:
    assert TinyArithmetic(TaskConfig(name="tiny_arithmetic")).gen_length == len("-54") + 1
    assert TinyArithmetic(TaskConfig(name="tiny_arithmetic", hard=(12, 12))).gen_length == len("-108") + 1
