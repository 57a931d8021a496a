r"""d1's rules as published (arXiv 2504.12216): the verdicts of its evaluation and the rewards of its training.

Written from their definitions, quirks included, so that numbers compare; docs/grading.md lists the quirks. Where the
published expressions take quadratic time or evaluate code, these take linear time and evaluate nothing.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import Any

NUM_CELLS = 16
MAX_EXPRESSION = 1000
"""Characters of an equation; a longer one cannot be evaluated."""
MAX_NESTING = 90
MAX_BRACES = 20_000
"""Braces until a box must have closed."""
MAX_POWER_BITS = 4096
"""A power with a larger result cannot be evaluated: d1 evaluates it and hangs."""

_NUMBER = re.compile(r"-?\d+\.?\d*")
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
    boxes, at, left = [], 0, r"\boxed{"
    while (start := text.find(left, at)) >= 0:
        at = start + len(left)
        line = text.find("\n", at)
        end = text.find("}", at, line if line >= 0 else None)
        if end >= 0:
            boxes.append(text[at:end])
            at = end + 1
        elif line < 0:
            break
        else:
            at = line
    return boxes


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
    return uses_numbers(equation, numbers) and near(value_of(equation.strip()), target)


def uses_numbers(equation: str, numbers: Sequence[int]) -> bool:
    literals = re.findall(r"\d+", equation)
    return len(literals) == len(numbers) and sorted(map(_small, literals)) == sorted(numbers)


def _small(literal: str) -> int:
    return int(literal) if len(literal) < 1000 else -1


def near(value: Any, target: int) -> bool:
    """Whether a value that `evaluate` gave is the target, to 1e-5."""
    try:
        return value is not None and abs(value - target) < 1e-5
    except OverflowError:
        return False


def value_of(equation: str) -> Any:
    """What Python makes of digits, + - * / ** // ( ) . and white space; None where d1 fails, hangs or gets no number.

    Floats, as in d1: 1/3*3 is right. A power is evaluated only while its result stays small.
    """
    depths = accumulate((char == "(") - (char == ")") for char in equation)
    if len(equation) > MAX_EXPRESSION or not re.match(r"^[\d+\-*/().\s]+$", equation) or max(depths) > MAX_NESTING:
        return None
    try:
        return _value(ast.parse(equation, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MemoryError):
        return None


def _power(base: Any, exponent: Any) -> Any:
    size = abs(base).bit_length() if isinstance(base, int) else 64
    if abs(exponent) * max(size, 1) > MAX_POWER_BITS:
        raise OverflowError
    return base**exponent


_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.FloorDiv: operator.floordiv, ast.Pow: _power, ast.UAdd: operator.pos, ast.USub: operator.neg},
}


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("d1 gets no number from this")


def sudoku_answer(text: str) -> str:
    """16 characters from the first of five places that holds any: a fence in <answer>, <answer>, what follows
    </answer>, 16 digits before </answer>, 16 digits; padded with 0, or cut."""
    places = (_fenced, _tagged, _after_tag, _before_tag, _digits)
    found = next((answer for place in places if (answer := place(text).strip())), "")
    found = re.sub(r"\s", "", found)
    return found.ljust(NUM_CELLS, "0")[:NUM_CELLS] if found else ""


_ENDS = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")


def _fenced(text: str) -> str:
    digits = re.search(r"```([\d\s]++)```", text.partition("<answer>")[2])
    return digits[1] if digits else ""


def _tagged(text: str) -> str:
    start = text.find("<answer>")
    end = re.compile(_ENDS.pattern + "|</answer>").search(text, start) if start >= 0 else None
    return text[start + len("<answer>") : end.start()] if end else ""


def _after_tag(text: str) -> str:
    _, tag, after = text.partition("</answer>")
    return _ENDS.split(after.lstrip(), maxsplit=1)[0] if tag else ""


def _before_tag(text: str) -> str:
    found = re.search(r"(?<!\d)\d++(?<=(\d{16}))\s*+</answer>", text)
    return found[1] if found else ""


def _digits(text: str) -> str:
    found = re.search(r"\b(\d{16})\b", text)
    return found[1] if found else ""


def sudoku_cells(answer: str, puzzle: str, solution: str) -> int:
    """Blanks of the puzzle that the answer fills right; no clue is checked."""
    rows = zip(answer, puzzle, solution, strict=False)
    return sum(clue == "0" and digit == right for digit, clue, right in rows)
