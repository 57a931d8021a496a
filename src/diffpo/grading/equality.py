r"""Whether a final answer says what the reference says: written differently is right, left to be worked out is not.

Values are compared, not strings: 0.5, 1/2, \frac{2}{4} and 50\% are one number. docs/grading.md gives the rules.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction

from diffpo.grading.latex import MAX_LENGTH, Node, Unreadable, is_natural, is_numeral
from diffpo.grading.math_worker import math_verify_agrees
from diffpo.grading.maths import (
    Answer,
    Based,
    Equation,
    Expression,
    Items,
    Matrix,
    Named,
    Union,
    Words,
    clean,
    read_answer,
    words_of,
)
from diffpo.grading.values import POINTS, Number, close, evaluate, operations, symbols

_FACTOR = re.compile(
    r"(?:^|[.?!:]\s+)(?:Completely )?[Ff]actor(?:ize|ise)?\b(?! of)|\bfactor(?:ize|ise)? (?:completely|the|this|\$)"
    r"|\bfactored form\b|\bfactorization of\b"
)
_EXPAND = re.compile(r"(?:^|[.?!:]\s+)[Ee]xpand\b|\bexpanded form\b|\bexpand the\b")
_FORMULA = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
MAX_ITEMS = 40
"""Items of a list or set; longer ones are compared as strings only."""


def same_answer(answer: str, truth: str, question: str = "") -> bool:
    """Whether a person who knows that `truth` is right calls `answer` right. Any string is judged in milliseconds.

    The question tells an answer from an expression that it merely repeats, and a product from a sum where it asks to
    factor or to expand. A reference that our reader does not know goes to math-verify, which has its own time limit.
    """
    try:
        if plain(answer) == plain(truth) != "":
            return True
        try:
            expected = read_answer(truth, reference=True)
        except Unreadable:
            return not _occurs(answer, question) and math_verify_agrees(answer, truth)
        if isinstance(expected, Words):
            return words_of(clean(answer)) == expected.text or _option(answer) == expected.text
        given = read_answer(answer)
        return same(expected, given) and not repeats(expected, given, answer, question) and _in_form(given, question)
    except Unreadable:
        return False


def plain(text: str) -> str:
    """A cleaned answer without white space, but for that between digits."""
    return re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", clean(text))


def _option(answer: str) -> str:
    """The letter of an option that is named as in "(C) Plane" or "Option C"; "" for another answer."""
    text = re.sub(r"\\text[a-z]*\s*\{|\}|\$", "", answer).strip()
    option = re.match(r"\(?([A-Za-z])(?:\)|[.:]\s)|(?:[Oo]ption|[Cc]hoice|[Aa]nswer):?\s*\(?([A-Z])\)?$", text)
    return (option[1] or option[2]).lower() if option else ""


def repeats(truth: Answer, given: Answer, answer: str, question: str) -> bool:
    """Whether the answer is an expression of the question that was to be worked out, such as a fraction to reduce.

    A number in lowest terms, and an expression that the reference has too, are worked out.
    """
    if not isinstance(given, Expression) or given == truth:
        return False
    positive = given.node.args[0] if given.node.op == "neg" else given.node
    if is_numeral(given.node) and not _reducible(positive):
        return (
            given.node.name == "."
            and bool(re.search(r"\b(?:[Ee]xpress|[Cc]onvert|[Ww]rite)\b", question))
            and (_occurs(answer, question))
        )
    return given.node.op != "symbol" and _occurs(answer, question)


def _reducible(node: Node) -> bool:
    over, under = (arg.args[0] if arg.op == "neg" else arg for arg in node.args) if node.op == "/" else (node, node)
    return node.op == "/" and math.gcd(over.value.numerator, under.value.numerator) > 1


def _occurs(answer: str, question: str) -> bool:
    """Whether the answer is one of the question's formulas, a side of one, or one of its words."""
    question = question[:4000]
    formulas = [next(filter(None, found)) for found in _FORMULA.findall(question)]
    sides = (side for formula in formulas for side in (formula, *re.split(r"=|\\text\{[^{}]*\}", formula)))
    pieces = (piece for piece in (*sides, *question.split()) if 0 < len(piece) <= MAX_LENGTH)
    return plain(answer) in {plain(piece) for piece in pieces}


def _in_form(given: Answer, question: str) -> bool:
    """A product where the question asks to factor, no product of sums where it asks to expand."""
    if not isinstance(given, Expression) or not symbols(given.node):
        return True
    if _FACTOR.search(question):
        return given.node.op not in ("+", "-")
    if _EXPAND.search(question):
        return not any(_is_product_of_sums(node) for node in _nodes(given.node))
    return True


def _nodes(node: Node) -> Iterable[Node]:
    yield node
    for arg in node.args:
        yield from _nodes(arg)


def _is_product_of_sums(node: Node) -> bool:
    return node.op in ("*", "^") and any(arg.op in ("+", "-") and symbols(arg) for arg in node.args)


# --- structure ---------------------------------------------------------------------------------------------------


def same(truth: Answer, given: Answer) -> bool:
    """Whether two readings agree: a name may be left out or put before, a list may be in any order."""
    truth, given = _unnamed(truth, given)
    if isinstance(truth, Expression) and isinstance(given, Expression):
        return _same_expression(truth, given)
    if isinstance(truth, Matrix) or isinstance(given, Matrix):
        return _same_cells(_cells(truth), _cells(given))
    if isinstance(truth, Equation) or isinstance(given, Equation):
        return isinstance(truth, Equation) and isinstance(given, Equation) and _same_equation(truth, given)
    if isinstance(truth, Based):
        return given == truth or (isinstance(given, Expression) and _digits(given) == truth.digits)
    if isinstance(truth, Union) or isinstance(given, Union):
        return _same_unordered(_parts(truth), _parts(given))
    if _is_list(truth) or (_is_list(given) and isinstance(truth, Expression)):
        ordered = isinstance(given, Items) and given.left == "["
        return not ordered and _same_unordered(_members(truth), _members(given))
    if isinstance(truth, Items) and isinstance(given, Items):
        brackets = (truth.left, truth.right) == (given.left, given.right)
        return brackets and _same_ordered(truth.items, given.items)
    return False


def _unnamed(truth: Answer, given: Answer) -> tuple[Answer, Answer]:
    """Both without their names; as they are if both are named, and differently."""
    if isinstance(truth, Named) and isinstance(given, Named):
        letters = all(re.fullmatch("[A-Za-z]", name) for name in (truth.name, given.name))
        return (truth, given) if letters and truth.name != given.name else (truth.answer, given.answer)
    if isinstance(truth, Named):
        return truth.answer, given
    return truth, given.answer if isinstance(given, Named) else given


def _digits(given: Expression) -> str:
    return str(given.node.value) if is_natural(given.node) else ""


def _parts(answer: Answer) -> tuple[Answer, ...]:
    return answer.parts if isinstance(answer, Union) else (answer,)


def _is_list(answer: Answer) -> bool:
    return isinstance(answer, Items) and answer.left in ("", "{")


def _members(answer: Answer) -> list[Answer]:
    r"""The members of a list, with both values of each \pm."""
    items = answer.items if isinstance(answer, Items) else (answer,)
    return [sign for item in items for sign in _signs(item)]


def _signs(answer: Answer) -> list[Answer]:
    if isinstance(answer, Named):
        return _signs(answer.answer)
    if isinstance(answer, Expression) and {"pm", "mp"}.intersection(operations(answer.node)):
        return [answer._replace(node=_choose(answer.node, upper)) for upper in (True, False)]
    return [answer]


def _choose(node: Node, upper: bool) -> Node:
    op = {"pm": "+" if upper else "-", "mp": "-" if upper else "+"}.get(node.op, node.op)
    return node._replace(op=op, args=tuple(_choose(arg, upper) for arg in node.args))


def _same_unordered(truth: Iterable[Answer], given: Iterable[Answer]) -> bool:
    """Whether each member of one occurs in the other; how often does not count."""
    ours, theirs = list(truth), list(given)
    if max(len(ours), len(theirs)) > MAX_ITEMS:
        return False
    matches = [[same(one, two) for two in theirs] for one in ours]
    return all(map(any, matches)) and all(map(any, zip(*matches, strict=True))) and bool(ours) == bool(theirs)


def _same_ordered(truth: tuple[Answer, ...], given: tuple[Answer, ...]) -> bool:
    return len(truth) == len(given) and all(same(one, two) for one, two in zip(truth, given, strict=True))


def _cells(answer: Answer) -> tuple[tuple[Answer, ...], ...] | None:
    """Rows of entries; a tuple is a column."""
    if isinstance(answer, Items) and answer.left == "(" and answer.right == ")":
        return tuple((item,) for item in answer.items)
    return answer.rows if isinstance(answer, Matrix) else None


def _same_cells(truth: tuple[tuple[Answer, ...], ...] | None, given: tuple[tuple[Answer, ...], ...] | None) -> bool:
    if truth is None or given is None or len(truth) != len(given):
        return False
    return all(_same_ordered(one, two) for one, two in zip(truth, given, strict=True))


# --- values ------------------------------------------------------------------------------------------------------


def _same_expression(truth: Expression, given: Expression) -> bool:
    if truth.unit and given.unit and truth.unit != given.unit:
        return False
    if is_numeral(truth.node):
        if not is_numeral(given.node):
            return False
        expected = evaluate(truth.node)
        return any(close(expected, value) for value in _readings(given, truth.percent)) or (
            truth.scale != 1 and close(_times(expected, truth.scale), evaluate(given.node))
        )
    return _same_value(truth.node, given.node)


def _readings(given: Expression, percent: bool) -> list[Number]:
    """What a number may mean: 5 million is 5 where millions are asked for, 50% is 50 or a half."""
    value = evaluate(given.node)
    readings = [value]
    if given.percent and not percent:
        readings.append(_times(value, Fraction(1, 100)))
    if given.scale != 1:
        readings.append(_times(value, Fraction(given.scale)))
    return readings


def _times(value: Number, factor: Fraction | int) -> Number:
    return value * factor if isinstance(value, Fraction) else value * float(factor)


def _points(*nodes: Node) -> Iterable[int]:
    """The points at which expressions are compared: negative ones too where an absolute value makes a difference."""
    if not any(map(symbols, nodes)):
        return (0,)
    signed = any(op == "abs" for node in nodes for op in operations(node))
    return (*POINTS, *(point + len(POINTS) for point in POINTS)) if signed else POINTS


def _same_value(truth: Node, given: Node) -> bool:
    r"""Whether expressions agree at a few points, both values of \pm taken together; no function may be left to apply
    that the reference does not apply."""
    extra = set(operations(given)) - set(operations(truth))
    if extra & {"sin", "cos", "tan", "log", "ln", "exp", "!", "binom"} and not symbols(truth):
        return False
    return all(
        any(close(ours, evaluate(given, point, upper)) for upper in (True, False))
        for point in _points(truth, given)
        for ours in (evaluate(truth, point, sign) for sign in (True, False))
    ) and all(
        any(close(theirs, evaluate(truth, point, upper)) for upper in (True, False))
        for point in _points(truth, given)
        for theirs in (evaluate(given, point, sign) for sign in (True, False))
    )


def _same_equation(truth: Equation, given: Equation) -> bool:
    """Whether one equation is the other times a constant."""
    ratios = []
    for point in _points(truth.left, truth.right, given.left, given.right):
        ours = evaluate(Node("-", (truth.left, truth.right)), point)
        theirs = evaluate(Node("-", (given.left, given.right)), point)
        if close(ours, Fraction(0)) or close(theirs, Fraction(0)):
            return False
        ratios.append(complex(ours) / complex(theirs))
    return all(close(ratio, ratios[0]) for ratio in ratios)
