"""Countdown: combine all the given numbers by + - * / into an expression that equals the target."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from diffpo.config import TaskConfig
from diffpo.grading.answers import extract_answer
from diffpo.grading.expressions import evaluate_expression
from diffpo.tasks.base import Split, TinyTask
from diffpo.tasks.stream import Dial, held_out, index_rng
from diffpo.types import Prompt, Verdict

# Small numbers and targets: a tiny model learns them in minutes.
MAX_VALUE = 19
MAX_TARGET = 99


class TinyCountdown(TinyTask):
    """The prompt " 3, 7,12=16:" asks for "12+ 7- 3". The dial counts numbers.

    Numbers are two characters wide, and solved examples have no brackets, so that what belongs together has the same
    places in all; answers may have any.
    """

    name = "tiny_countdown"
    alphabet = "0123456789+-*/(),=: "

    def __init__(self, config: TaskConfig) -> None:
        self.seed = config.seed
        self.dial = Dial.from_config(config, easy=(3, 3), hard=(4, 4), limits=(2, 6))
        self.gen_length = 4 * self.dial.top  # two digits and an operator a number, with room for brackets and EOS

    def draw(self, split: Split, index: int) -> Prompt:
        """The same numbers and target never occur in both splits, in any order."""
        rng = index_rng(self.name, self.seed, split, index)
        level, num_numbers = self.dial.draw(rng)
        while True:
            numbers = [rng.randint(1, MAX_VALUE) for _ in range(num_numbers)]
            order, signs = rng.sample(numbers, num_numbers), rng.choices("+-*/", k=num_numbers - 1)
            target = _value(order, signs)
            whole = target.denominator == 1 and 1 <= target <= MAX_TARGET
            if whole and held_out(self.seed, (sorted(numbers), int(target))) == (split == "test"):
                break
        solution = f"{order[0]:2}" + "".join(f"{sign}{number:2}" for sign, number in zip(signs, order[1:], strict=True))
        text = ",".join(f"{number:2}" for number in numbers) + f"={int(target):2}:"
        columns = {"numbers": tuple(numbers), "target": int(target), "solution": solution}
        return Prompt(f"countdown-{split}-{index}", text, level, columns)

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Right if it uses each number exactly once and equals the target; "numbers", the first half, is logged."""
        numbers: Any = prompt.columns["numbers"]
        expression = evaluate_expression(extract_answer(completion).partition("=")[0])
        value, literals = expression or (None, None)
        uses_numbers = literals is not None and sorted(literals) == sorted(numbers)
        correct = uses_numbers and value == prompt.columns["target"]
        parts = {"correct": float(correct), "numbers": float(uses_numbers)}
        return Verdict(correct, reward=float(correct), parts=parts)


def _value(numbers: Sequence[int], signs: Sequence[str]) -> Fraction:
    """Value of the numbers with these signs between them, * and / before + and -."""
    total, product = Fraction(0), Fraction(numbers[0])
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign in "+-":
            total, product = total + product, Fraction(number if sign == "+" else -number)
        else:
            product = product * number if sign == "*" else product / number
    return total + product
