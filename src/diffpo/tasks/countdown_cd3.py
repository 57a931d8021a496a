"""Countdown with three numbers, as d1 has it: make the target from all of them by + - * /, in the form of a chat."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from itertools import permutations, product
from random import Random
from typing import Any

from diffpo.tasks.base import Split
from diffpo.tasks.chat import BOX, RowTask, message, solved_form
from diffpo.tasks.data import Row, column
from diffpo.tasks.stream import held_out, index_rng
from diffpo.types import Prompt

NUM_NUMBERS = 3
MAX_VALUE = 100
"""Largest number and largest target, both uniform from 1, as in d1's test set."""
Problem = tuple[tuple[int, ...], int]

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


class CountdownCd3(RowTask):
    """Training problems are generated, or rows of task.data; test ones are 256 generated ones, or task.test_data.

    No training problem is a test problem in another order.
    """

    columns = "numbers (or nums, or input such as 30,100,93) and target (or output); rows with three numbers are used"

    def read(self, row: Row) -> Prompt | None:
        """A row of three numbers; others are left out, as d1 does."""
        numbers = column(row, ["numbers", "nums", "input"], (list, str))
        numbers = re.split(r"[\s,]+", numbers.strip("[] ")) if isinstance(numbers, str) else numbers
        target = column(row, ["target", "output"], (int, float, str))
        try:
            problem = tuple(map(_whole, numbers)), _whole(target)
        except (TypeError, ValueError):
            raise ValueError(f"{row.place}: numbers and target must be whole, got {numbers!r} and {target!r}") from None
        return self._message(*problem) if len(problem[0]) == NUM_NUMBERS else None

    @staticmethod
    def _message(numbers: tuple[int, ...], target: int) -> Prompt:
        """The message asks for a boxed expression."""
        ask = (
            "Combine the given numbers into an arithmetic expression whose value is the target. Use every number once "
            "and no other number, and only the operations +, -, * and / and parentheses. Give the expression alone, "
            "with no equals sign; for the numbers 5, 6, 7 and the target 4 it could be 5 + 6 - 7."
        )
        problem = f"Numbers: {list(numbers)}\nTarget: {target}"
        return message(ask, BOX, problem, numbers=numbers, target=target)

    def solution(self, prompt: Prompt) -> str:
        """The first way to the target in a fixed order, in two steps. ValueError names a row whose target has none."""
        numbers, target = canonical(prompt.columns)
        for value, expression, steps in _ways(numbers):
            if value == target:
                return solved_form(steps, rf"\boxed{{{expression}}}")
        raise ValueError(f"{prompt.place}: {target} is not within reach of {list(numbers)}")

    def choose(self, split: Split, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Training rows without the test problems."""
        return [prompt for prompt in prompts if split == "test" or canonical(prompt.columns) not in self._tested]

    def draw(self, split: Split, index: int) -> Prompt:
        """A problem that no row of task.test_data is, in any order."""
        rng = index_rng(self.name, self.config.seed, split, index)
        while True:
            numbers, target = draw_problem(rng)
            key = tuple(sorted(numbers)), target
            if key not in self._tested and held_out(self.config.seed, key) == (split == "test"):
                return self._message(numbers, target)

    @cached_property
    def _tested(self) -> set[Problem]:
        """The problems of task.test_data, which no training prompt may be."""
        return {canonical(prompt.columns) for prompt in self.rows("test")} if self.config.test_data else set()


def _whole(value: Any) -> int:
    """A whole number, be it a text or a float; ValueError or TypeError for another value."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def canonical(columns: Mapping[str, Any]) -> Problem:
    """A problem whatever the order of its numbers."""
    return tuple(sorted(columns["numbers"])), columns["target"]


def draw_problem(rng: Random) -> Problem:
    """Three numbers and a target that they reach, uniform over the whole targets within reach."""
    while True:
        numbers = tuple(rng.randint(1, MAX_VALUE) for _ in range(NUM_NUMBERS))
        targets = sorted({int(v) for v, *_ in _ways(numbers) if v.denominator == 1 and 1 <= v <= MAX_VALUE})
        if targets:
            return numbers, rng.choice(targets)


def _ways(numbers: tuple[int, ...]) -> Iterator[tuple[Fraction, str, str]]:
    """The value of every expression with each of three numbers once, the expression, and its two steps."""
    for a, b, c in permutations(map(Fraction, numbers)):
        for (first, apply_first), (second, apply_second) in product(_OPERATORS.items(), repeat=2):
            for left in (True, False):
                x, y = (a, b) if left else (b, c)
                try:
                    inner = apply_first(x, y)
                    value = apply_second(inner, c) if left else apply_second(a, inner)
                except ZeroDivisionError:
                    continue
                part, ends = f"({x} {first} {y})", (inner, c) if left else (a, inner)
                expression = f"{part} {second} {c}" if left else f"{a} {second} {part}"
                yield value, expression, f"{part[1:-1]} = {inner}\n{ends[0]} {second} {ends[1]} = {value}"
