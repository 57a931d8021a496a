"""Arithmetic expressions, as Countdown asks for them: exact values, in bounded time; nothing is evaluated as code."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import accumulate
from typing import Any, NamedTuple

from diffpo.grading.spelling import plain_signs

MAX_EXPRESSION = 256
MAX_NESTING = 32
MAX_DIGITS = 15
"""Digits of one literal."""

Operators = Mapping[type[ast.AST], Callable[..., Any]]
_OPERATORS: Operators = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.UAdd: operator.pos, ast.USub: operator.neg},
}
_LATEX = {r"\times": "*", r"\cdot": "*", r"\ast": "*", r"\div": "/"}
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_LITERAL = re.compile(r"[0-9]+")


class Expression(NamedTuple):
    """The exact value of an arithmetic expression, and its integer literals as written, from left to right."""

    value: Fraction
    literals: list[int]


def evaluate_expression(text: str, max_length: int = MAX_EXPRESSION) -> Expression | None:
    """Evaluate + - * / and signs over integer literals in exact fractions; None for anything else.

    Characters, length, nesting and digits are bounded before Python's parser sees the text, so it neither overflows
    nor warns; powers and floor division pass the parser and fail here, unevaluated.
    """
    text = text.strip()
    text = plain_signs(text) if len(text) <= max_length else ""
    for sign, plain in _LATEX.items():
        text = text.replace(sign, plain)
    literals = _LITERAL.findall(text)
    if not _EXPRESSION.fullmatch(text) or any(len(literal) > MAX_DIGITS for literal in literals):
        return None
    value = arithmetic(text, _OPERATORS, Fraction, MAX_NESTING)
    return None if value is None else Expression(value, [int(literal) for literal in literals])


def arithmetic(text: str, operators: Operators, number: Callable[[Any], Any], max_nesting: int) -> Any:
    """What `operators` make of a text's literals, each read by `number`; None where they make nothing of it."""

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() as literal):
                return number(literal)
            case ast.UnaryOp(op=op, operand=operand):
                return operators[type(op)](value(operand))
            case ast.BinOp(left=left, op=op, right=right):
                return operators[type(op)](value(left), value(right))
        raise ValueError(f"not arithmetic: {type(node).__name__}")

    if max(accumulate((char == "(") - (char == ")") for char in text)) > max_nesting:
        return None
    try:
        return value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError, MemoryError):
        return None
