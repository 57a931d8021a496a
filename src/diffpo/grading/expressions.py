"""Arithmetic expressions, as Countdown asks for them: exact values, in bounded time; nothing is evaluated as code."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

from diffpo.grading.spelling import plain_signs

MAX_EXPRESSION = 256
MAX_NESTING = 32
MAX_DIGITS = 15
"""Digits of one literal."""

_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}
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
    if not _EXPRESSION.fullmatch(text):
        return None
    literals = _LITERAL.findall(text)
    depths = accumulate((char == "(") - (char == ")") for char in text)
    if max(depths) > MAX_NESTING or any(len(literal) > MAX_DIGITS for literal in literals):
        return None
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return Expression(value, [int(literal) for literal in literals])


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.UnaryOp(op=op, operand=operand):
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _BINARY[type(op)](_value(left), _value(right))
    raise ValueError(f"not arithmetic: {type(node).__name__}")
