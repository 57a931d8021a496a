"""Countdown: combine all the given numbers by + - * / into an expression that equals the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffpo.config import TaskConfig
from diffpo.grading.answers import extract_answer
from diffpo.grading.expressions import evaluate_expression
from diffpo.tasks.base import Split, TinyTask
from diffpo.tasks.stream import Dial, GymStream, Problem
from diffpo.types import Prompt, Verdict

# Small numbers and targets: a tiny model learns them in minutes.
MAX_VALUE = 19
MAX_TARGET = 99


class TinyCountdown(TinyTask):
    """The prompt "3,7,12=16:" asks for "12+7-3". The dial counts numbers."""

    name = "tiny_countdown"
    alphabet = "0123456789+-*/(),=:"

    def __init__(self, config: TaskConfig) -> None:
        self.dial = Dial.from_config(config, easy=(3, 3), hard=(4, 4), limits=(2, 6))
        self.stream = GymStream("countdown", "countdown", config.seed, self.dial, _options, _read)
        self.rewards = None
        self.gen_length = _canvas_length(self.dial.top)

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1; the same numbers and target never occur in both splits, in any order."""
        return self.stream.prompts(split, num, start)

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Right if it uses each number exactly once and equals the target; "numbers", the first half, is logged."""
        numbers: Any = prompt.columns["numbers"]
        expression = evaluate_expression(extract_answer(completion).partition("=")[0])
        value, literals = expression or (None, None)
        uses_numbers = literals is not None and sorted(literals) == sorted(numbers)
        correct = uses_numbers and value == prompt.columns["target"]
        parts = {"correct": float(correct), "numbers": float(uses_numbers)}
        return Verdict(correct, reward=float(correct), parts=parts)

    def solution(self, prompt: Prompt) -> str:
        """One right expression of possibly many."""
        return str(prompt.columns["solution"])

    def open_positions(self, prompt: Prompt) -> range:
        """All: the prompt gives nothing away."""
        return range(len(self.solution(prompt)))


def _canvas_length(num_numbers: int) -> int:
    """Two digits and an operator a number, with room for brackets, a leading minus and EOS."""
    return 4 * num_numbers


def _options(num_numbers: int) -> dict[str, int]:
    return {
        "min_numbers": num_numbers,
        "max_numbers": num_numbers,
        "min_value": 1,
        "max_value": MAX_VALUE,
        "min_target": 1,
        "max_target": MAX_TARGET,
    }


def _read(item: Mapping[str, Any]) -> Problem | None:
    """The item's problem; None if its own answer is wrong by our rules or leaves no room for EOS."""
    numbers, target = tuple(item["metadata"]["numbers"]), item["metadata"]["target"]
    solution = item["answer"].replace(" ", "")
    expression = evaluate_expression(solution)
    right = expression is not None and (sorted(expression.literals), expression.value) == (sorted(numbers), target)
    if not right or len(solution) >= _canvas_length(len(numbers)):
        return None
    return Problem(
        text=f"{','.join(map(str, numbers))}={target}:",
        canonical=(sorted(numbers), target),
        columns={"numbers": numbers, "target": target, "solution": solution},
    )
