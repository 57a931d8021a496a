"""Safe graders: find the answer in a text, read it as a number or an expression. Any string whatever is answered
within milliseconds and nothing raises: what cannot be read is None."""

from __future__ import annotations

import ast
import operator
import re
from bisect import bisect_left
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple

MAX_TEXT = 20_000
"""Only this many last characters of a completion are searched for its answer."""
MAX_EXPRESSION = 256
MAX_NESTING = 32
MAX_DIGITS = 15
"""Digits of one literal in an expression."""
MAX_OPEN = 8
"""Only this many boxes that never close are looked into."""
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
_MARK = re.compile(r"\\?(?:boxed|fbox)\s*\{|\\[{}]|[{}]|</?answer>|</reasoning>")
_CUT = re.compile("</|<answer>|<reasoning>")
"""Where the content of a box or tag ends if it has not ended before."""
_BRACE = re.compile(r"(?<!\\)[{}]")
_EMPTY_BOX = re.compile(r"\\?boxed\s*\{\s*\}")
_COMMAND = re.compile(r"\\?(?:boxed|fbox)|\\(?:text|left|right)|</?[a-z]+>?")
_SAYS = re.compile(r"[^\W_]")
_TURN_END = re.compile(r"<\|(?:eot_id|eom_id|endoftext|end_of_text|im_end|end)\|>|</s>")


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


def end_of_turn(text: str) -> str:
    """`text` up to the first marker that ends a turn of chat: what a reader is shown."""
    return _TURN_END.split(text, maxsplit=1)[0]


def extract_answer(text: str) -> str:
    """`final_answer`, or the last non-empty line of a text that has none."""
    found = final_answer(text)
    lines = text[-MAX_TEXT:].strip().splitlines() if found is None else []
    return found or (lines[-1].strip() if lines else "")


def final_answer(text: str) -> str | None:
    r"""The last \boxed{...} or <answer>...</answer> that says something; None if there is none.

    Last means the one that begins last, so that of two nested ones the inner counts. A box that is not closed ends with
    its line, a tag that is not closed with the text. An <answer> that lacks its opening tag begins after </reasoning>,
    one that lacks both after the tag that closed the reasoning, be that </answer>. Dots and other placeholders without
    a letter or a digit say nothing.
    """
    text = end_of_turn(text)[-MAX_TEXT:]
    says = [char.start() for char in _SAYS.finditer(_COMMAND.sub(lambda command: " " * len(command[0]), text))]
    cuts = [*(tag.start() for tag in _CUT.finditer(text)), len(text)]
    tagged, untagged = _spans(text)
    for begin, end in (*sorted(tagged, reverse=True), *untagged):
        end = min(end, cuts[bisect_left(cuts, begin)])
        if bisect_left(says, begin) < bisect_left(says, end):
            return _balanced(_EMPTY_BOX.sub(" ", text[begin:end]).strip())
    return None


def _spans(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the contents of boxes and answer tags begin and end; and what follows the tag that closed the reasoning."""
    spans: list[tuple[int, int]] = []
    braces: list[tuple[bool, int]] = []  # open braces: whether it is a box, and where its content begins
    # where content begins: of an open <answer>, after </reasoning>, after a lone </answer>
    tag = reasoned = closed = -1
    for mark in _MARK.finditer(text):
        match mark[0]:
            case "}" if braces:
                is_box, begin = braces.pop()
                spans += [(begin, mark.start())] if is_box else []
            case "<answer>":
                spans += [(tag, mark.start())] if tag >= 0 else []
                tag = mark.end()
            case "</answer>" if max(tag, reasoned) >= 0:
                spans.append((max(tag, reasoned), mark.start()))
                tag = reasoned = -1
            case "</answer>":
                closed = mark.end()
            case "</reasoning>":
                reasoned = mark.end()
            case opening if opening.endswith("{") and not opening.startswith("\\{"):
                braces.append((opening != "{", mark.end()))
    spans += [(begin, _line_end(text, begin)) for is_box, begin in braces[-MAX_OPEN:] if is_box]
    spans += [(tag, len(text))] if tag >= 0 else []
    after = max(reasoned, closed)
    return spans, [(after, len(text))] if after >= 0 else []


def _line_end(text: str, begin: int) -> int:
    """The end of the line, without a ">" that stands for the missing brace."""
    end = text.find("\n", begin)
    end = len(text) if end < 0 else end
    return end - (end > begin and text[end - 1] == ">")


def _balanced(text: str) -> str:
    """`text` with the closing braces that it lacks."""
    marks = _BRACE.findall(text)
    return text + "}" * (marks.count("{") - marks.count("}"))
