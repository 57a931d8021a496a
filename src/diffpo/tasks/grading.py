"""Safe graders: find the answer in a text, read it as a number or an expression. Any string whatever is answered
within milliseconds and nothing raises: what cannot be read is None."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

MAX_TEXT = 20_000
"""Only this many last characters of a completion are searched for its answer."""
MAX_EXPRESSION = 256
MAX_NESTING = 32
MAX_DIGITS = 15
"""Digits of one literal in an expression."""
MAX_NUMBER = 64
"""Characters of a number."""

_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}

_SIGNS = {"\u2212": "-", "\u00d7": "*", "\u00f7": "/", r"\times": "*", r"\cdot": "*", r"\div": "/"}
"""Typographic and LaTeX signs, and what they mean."""
_EXPRESSION = re.compile(r"[0-9+\-*/() ]+")
_LITERAL = re.compile(r"[0-9]+")
_NUMBER = re.compile(
    r"""(?:\\?\$)? \ ? ([+-]?) \ ? (?:\\?\$)?      # a sign before or after a dollar
        ( [0-9]+ / [0-9]+                        # 1/2
        | (?: [0-9]{1,3} (?:,[0-9]{3})+ | [0-9]+ ) (?:\.[0-9]*)?
        | \.[0-9]+ )""",
    re.VERBOSE,
)
_MARK = re.compile(r"\\boxed\{|\\[{}]|[{}]|<answer>|</answer>")


def _plain(text: str, max_length: int) -> str:
    """`text` without outer space, in ASCII signs; "" if it is longer than `max_length`."""
    text = text.strip()
    if len(text) > max_length:
        return ""
    for sign, plain in _SIGNS.items():
        text = text.replace(sign, plain)
    return text


class Expression(NamedTuple):
    """The exact value of an arithmetic expression, and its integer literals as written, from left to right."""

    value: Fraction
    literals: list[int]


def evaluate_expression(text: str, max_length: int = MAX_EXPRESSION) -> Expression | None:
    """Evaluate + - * / and signs over integer literals in exact fractions; None for anything else.

    Characters, length, nesting and digits are bounded before Python's parser sees the text, so it neither overflows
    nor warns; powers and floor division pass the parser and fail here, unevaluated.
    """
    text = _plain(text, max_length)
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


def parse_number(text: str) -> Fraction | None:
    """Read one number, exactly: "7", "+7", "-1,000", "$5", "5.0", ".5", "1/2". None for anything else."""
    match = _NUMBER.fullmatch(_plain(text, MAX_NUMBER))
    if match is None:
        return None
    try:
        return Fraction(match[1] + match[2].replace(",", ""))
    except ZeroDivisionError:
        return None


def extract_answer(text: str) -> str:
    r"""The last non-empty \boxed{...} with balanced braces or <answer>...</answer>; else the last non-empty line.

    Last means the one that begins last, so that of two nested ones the inner counts.
    """
    text = text[-MAX_TEXT:].strip()
    best = (-1, -1)
    braces: list[tuple[bool, int]] = []  # open braces: whether it is a box, and where its content begins
    tag: int | None = None  # where the content of an open <answer> begins
    for mark in _MARK.finditer(text):
        start = None
        match mark[0]:
            case "{" | "\\boxed{":
                braces.append((mark[0] != "{", mark.end()))
            case "}" if braces:
                is_box, begin = braces.pop()
                start = begin if is_box else None
            case "<answer>":
                tag = mark.end()
            case "</answer>":
                start, tag = tag, None
        if start is not None and start > best[0] and text[start : mark.start()].strip():
            best = (start, mark.start())
    if best[0] >= 0:
        return text[best[0] : best[1]].strip()
    return text.splitlines()[-1].strip() if text else ""
