r"""d1's rules as published (arXiv 2504.12216): the verdicts of its evaluation and the rewards of its training.

Written from their definitions, quirks included, so that numbers compare; docs/grading.md lists the quirks. Where the
published expressions take quadratic time or evaluate code, these take linear time and evaluate nothing.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from diffpo.grading.expressions import Operators, arithmetic

NUM_CELLS = 16
MAX_EXPRESSION = 1000
"""Characters of an equation; a longer one cannot be evaluated."""
MAX_NESTING = 90
MAX_BRACES = 20_000
"""Braces until a box must have closed."""
MAX_POWER_BITS = 4096
"""A power with a larger result cannot be evaluated: d1 evaluates it and hangs."""

_NUMBER = re.compile(r"-?\d+\.?\d*")
_LINE_BOX = re.compile(r"\\boxed\{([^}\n]*)(\}?)")
r"""A box that does not close takes its line with it: there is no other on it, and none is looked for again."""
_LEFT_SIDE = re.compile(r"(?<![0-9+\-*/() ])([0-9+\-*/() ]++)=[0-9. ]")
_SIGNS = {r"\div": "/", r"\times": "*", r"\cdot": "*"}


# --- where the answer stands -------------------------------------------------------------------------------------


def between(text: str, left: str, right: str) -> str | None:
    """What stands between the first `left` and the first `right` after it."""
    start = text.find(left)
    end = -1 if start < 0 else text.find(right, start + len(left))
    return None if end < 0 else text[start + len(left) : end]


def one_line_boxes(text: str) -> list[str]:
    r"""What follows each \boxed{ up to the first closing brace of its line: \boxed{\frac{1}{2}} gives "\frac{1"."""
    return [box[1] for box in _LINE_BOX.finditer(text) if box[2]]


def last_box(text: str) -> str | None:
    r"""The last \boxed{...}, else the last \fbox{...}, else all of `text`; None if its braces do not balance.

    A "\boxed " with a space comes first: what follows the last of these up to a dollar sign.
    """
    if r"\boxed " in text:
        return text.rpartition(r"\boxed ")[2].partition("$")[0]
    start = text.rfind(r"\boxed")
    if start < 0:
        start = text.rfind(r"\fbox")
    if start < 0:
        return text
    depth = 0
    for mark in islice(re.finditer(r"[{}]", text[start:]), MAX_BRACES):
        depth += 1 if mark[0] == "{" else -1
        if depth == 0:
            box = text[start : start + mark.end()]
            return box[len(r"\boxed{") : -1] if box.startswith(r"\boxed{") else box
    return None


# --- verdicts of the evaluation ----------------------------------------------------------------------------------


def gsm8k_answer(text: str) -> float | None:
    """The first number of the first box that has one, else the last number of the first <answer>."""
    for box in one_line_boxes(text):
        if box.strip(" \t\r\f\v.") and (number := _number(box.strip(), 0)) is not None:
            return number
    answer = between(text, "<answer>", "</answer>")
    return None if answer is None else _number(answer.strip(), -1)


def _number(text: str, index: int) -> float | None:
    """`text` as a float, else the number in it at `index`; "1,000" is 1 or 0."""
    try:
        return float(text)
    except ValueError:
        numbers = _NUMBER.findall(text)
        return float(numbers[index]) if numbers else None


def math_answer(text: str) -> str | None:
    """The last box; where it is empty or not closed, the first <answer>."""
    box = last_box(text)
    if box:
        return box
    answer = between(text, "<answer>", "</answer>")
    return box if answer is None else answer.strip()


def countdown_answer(text: str) -> str:
    """The last box, else, where it is not closed, the first <answer>, else all; then the left side of an equation."""
    box = last_box(text)
    if box is None:
        answer = between(text, "<answer>", "</answer>")
        box = text if answer is None else answer.strip()
    for sign, plain in _SIGNS.items():
        box = box.replace(sign, plain)
    side = _LEFT_SIDE.search(box)
    return side[1].strip() if side else box


def countdown_correct(equation: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the equation uses each number once and comes within 1e-5 of the target."""
    literals = [int(literal) if len(literal) < 1000 else -1 for literal in re.findall(r"\d+", equation)]
    value = value_of(equation.strip()) if sorted(literals) == sorted(numbers) else None
    try:
        return value is not None and abs(value - target) < 1e-5
    except OverflowError:
        return False


def value_of(equation: str) -> Any:
    """What Python makes of digits, + - * / ** // ( ) . and white space; None where d1 fails, hangs or gets no number.

    Floats, as in d1: 1/3*3 is right. A power is evaluated only while its result stays small.
    """
    if len(equation) > MAX_EXPRESSION or not re.match(r"^[\d+\-*/().\s]+$", equation):
        return None
    return arithmetic(equation, _OPERATORS, lambda literal: literal, MAX_NESTING)


def _power(base: Any, exponent: Any) -> Any:
    size = abs(base).bit_length() if isinstance(base, int) else 64
    if abs(exponent) * max(size, 1) > MAX_POWER_BITS:
        raise OverflowError
    return base**exponent


_OPERATORS: Operators = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: operator.floordiv, ast.Pow: _power, ast.UAdd: operator.pos, ast.USub: operator.neg},
}


_ENDS = r"<\|eot_id\|>|<\|endoftext\|>"
_GRIDS = (
    r"\A(?>.*?<answer>).*?```([\d\s]++)```",
    rf"\A(?>.*?<answer>)(.*?)(?:{_ENDS}|</answer>)",
    rf"\A(?>.*?</answer>)\s*+(.*?)(?:{_ENDS}|\Z)",
    r"(?<!\d)\d++(?<=(\d{16}))\s*+</answer>",
    r"\b(\d{16})\b",
)
"""A fence in <answer>, <answer>, what follows </answer>, 16 digits before </answer>, 16 digits."""


def sudoku_answer(text: str) -> str:
    """16 characters from the first of `_GRIDS` that holds any; padded with 0, or cut."""
    places = (re.search(place, text, re.DOTALL) for place in _GRIDS)
    found = next((answer for place in places if place and (answer := re.sub(r"\s", "", place[1]))), "")
    return found.ljust(NUM_CELLS, "0")[:NUM_CELLS] if found else ""


def sudoku_cells(answer: str, puzzle: str, solution: str) -> int:
    """Blanks of the puzzle that the answer fills right; no clue is checked."""
    rows = zip(answer, puzzle, solution, strict=False)
    return sum(clue == "0" and digit == right for digit, clue, right in rows)
