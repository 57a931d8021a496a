"""Arithmetic with its steps written out: a row of operations on a running value, each followed by what it makes."""

from __future__ import annotations

import operator
from random import Random

from diffpo.config import TaskConfig
from diffpo.tasks.base import Split, TinyTask
from diffpo.tasks.stream import Dial, held_out, index_rng
from diffpo.types import Prompt, Verdict

MAX_VALUE = 99
"""Largest running value; all are written with two digits."""
MAX_START = 19
STEP = "+8=55"
"""An operation and the value that it makes: so long is every step."""

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_OPERANDS = {"+": range(1, 10), "-": range(1, 10), "*": range(2, 6)}


class TinySteps(TinyTask):
    """The prompt "07+8-9*3 =" asks for "+8=15-9=06*3=18", whose last value is the answer. The dial counts steps.

    Prompts are filled up with spaces to one length, so that what belongs together has the same places in all.
    """

    name = "tiny_steps"
    alphabet = "0123456789+-*= "

    def __init__(self, config: TaskConfig) -> None:
        self.seed = config.seed
        self.dial = Dial.from_config(config, easy=(5, 6), hard=(11, 12), limits=(1, 24))
        self.gen_length = -(-(len(STEP) * self.dial.top + 1) // 32) * 32  # and EOS

    def draw(self, split: Split, index: int) -> Prompt:
        """The same operations never occur in both splits."""
        rng = index_rng(self.name, self.seed, split, index)
        level, num_steps = self.dial.draw(rng)
        while True:
            start, steps = _draw_steps(num_steps, rng)
            operations = f"{start:02}" + "".join(operation for operation, _ in steps)
            if held_out(self.seed, operations) == (split == "test"):
                break
        solution = "".join(f"{operation}={value:02}" for operation, value in steps)
        text = f"{operations:<{len('00') + len('+8') * self.dial.top}}="
        return Prompt(f"steps-{split}-{index}", text, level, {"solution": solution, "answer": steps[-1][1]})

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Right if the value behind the last "=" is; "steps", the share of steps that are, is logged."""
        solution, answer = self.solution(prompt), completion.strip()
        correct = float(answer.rpartition("=")[2] == f"{prompt.columns['answer']:02}")
        pairs = [(solution[at : at + len(STEP)], answer[at : at + len(STEP)]) for at in _starts(solution)]
        steps = sum(right == given for right, given in pairs) / len(pairs)
        return Verdict(bool(correct), reward=correct, parts={"correct": correct, "steps": steps})

    def open_positions(self, prompt: Prompt) -> list[int]:
        """Values: the prompt gives the operations away."""
        return [at + len(STEP) - digit for at in _starts(self.solution(prompt)) for digit in (2, 1)]


def _starts(solution: str) -> range:
    return range(0, len(solution), len(STEP))


def _draw_steps(num_steps: int, rng: Random) -> tuple[int, list[tuple[str, int]]]:
    """A start, and operations with the values that they make, none beyond MAX_VALUE: a sign is as likely as any that
    has an operand left."""
    start = value = rng.randint(1, MAX_START)
    steps = []
    for _ in range(num_steps):
        allowed = {
            sign: [other for other in _OPERANDS[sign] if 0 <= apply(value, other) <= MAX_VALUE]
            for sign, apply in _OPERATORS.items()
        }
        sign = rng.choice([sign for sign, others in allowed.items() if others])
        other = rng.choice(allowed[sign])
        value = _OPERATORS[sign](value, other)
        steps.append((f"{sign}{other}", value))
    return start, steps
