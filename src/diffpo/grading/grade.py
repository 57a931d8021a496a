"""What every grader shares: the grade of a completion, its format, and what a graded task is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from diffpo.grading.answers import end_of_turn

Columns = Mapping[str, Any]
"""The columns of a prompt."""


class Graded(NamedTuple):
    """What a grader makes of a completion."""

    answer: str
    """The answer that was read; "" for none."""
    correct: bool
    reward: float
    parts: Mapping[str, float]
    """Named parts of the reward, and shares that are only logged."""


Grader = Callable[[Columns, str], Graded]


class GradedTask(NamedTuple):
    """How the completions of a task are graded; `tasks.GRADED` has them all."""

    strict: Grader
    """By our rules."""
    d1: Grader
    """By d1's rules, quirks included."""
    columns: Callable[[str, Any], dict[str, Any]]
    """A prompt's columns from the question and the ground_truth of a saved row; ValueError says what is wrong."""


def formatted(completion: str) -> bool:
    """Whether a completion reasons, closes </reasoning>, and then answers between tags, each once and in this order."""
    text = end_of_turn(completion).strip()
    tags = re.findall(r"</?(?:reasoning|answer)>", text)
    wanted = ["</reasoning>", "<answer>", "</answer>"]
    return tags in (wanted, ["<reasoning>", *wanted]) and text.endswith("</answer>")


def graded(completion: str, answer: str | None, correct: bool) -> Graded:
    """The grade whose reward is 1 for a right answer, else 0."""
    parts = {"correct": float(correct), "format": float(formatted(completion))}
    return Graded(answer or "", correct, float(correct), parts)
