"""Expressions and equations by math-verify, in processes that are killed when one takes too long.

What math-verify would accept and a person would not is refused before it is asked: other letters, words, commands that
have no place in an answer, towers of powers, decimals for irrational numbers, functions that are left to apply.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Any

from diffpo.grading.spelling import FUNCTIONS, ROW, TEXT, word_set
from diffpo.processes.worker import Pool, serve

TIME_LIMIT = 1.2
"""Seconds of CPU time that a comparison may take."""
MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space."""
MAX_LENGTH = 200
"""Characters of an expression that is parsed."""
MAX_DEPTH = 12
WARM_UP = (
    r"\frac{\sqrt{3}}{2}+1", r"x^{8}-3x y+2(x+1)^{2}", r"\cos x\cdot\sin{2x}+\ln{x}", r"\sqrt[3]{2}-\pi^{2}i", "y=2x+3",
    r"\begin{pmatrix}1&-2\\3&4\end{pmatrix}", r"\frac{1}{(a+b)}-e^{x}", r"\binom{n}{k}+n!", r"\log_{2}{3}+|x|",
)  # fmt: skip
"""Of what answers are made: the parser's tables and sympy's modules are filled before the time is counted."""
POOL = Pool("diffpo.grading.algebra", TIME_LIMIT)

_TOWER = re.compile(
    r"\^\s*(?:\{[^{}]*[\^!]|\{?\s*-?\s*[0-9]{4,})|[0-9]{4,}\s*\}?\s*!|!\s*!|\*\*|[0-9]{60}|[0-9]\s+[0-9]|\+\s*\+|-\s*-"
    r"|(?<![\\A-Za-z])[A-Za-hj-z]+\s*[0-9]"
)
"""Powers of powers, exponents of four digits, factorials of such: not worth the time. And numbers side by side, or
behind a letter: 5 ft 3 in."""
_LARGE = re.compile(r"(?<![0-9.])[0-9]{1,2}\^\{-?[0-9]{4}\}")
"""2^{2005}: of a small number an exponent of four digits is worth the time."""
_NUMERIC = word_set("frac sqrt pi cdot times ast div infty")
_GREEK = word_set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell"
)
_SYMBOLIC = _NUMERIC | FUNCTIONS | _GREEK | {"binom"}
_CONSTANTS = frozenset("ei")


def letters(text: str) -> frozenset[str]:
    """The letters of a text that are no part of a command, and its Greek ones."""
    greek = _GREEK.intersection(re.findall(r"\\([A-Za-z]+)", text))
    return frozenset(greek | set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", text))) - {"e"})


def comparable(truth: str, given: str) -> bool:
    """Whether two cleaned expressions are short and tame, and the answer is made of what the reference is made of."""
    for text in (truth, given):
        balanced = all(text.count(left) == text.count(right) for left, right in ("{}", "()"))
        nested = max((text[:at].count("{") - text[:at].count("}") for at in range(len(text))), default=0) > MAX_DEPTH
        short = 0 < len(text) <= MAX_LENGTH and text.isascii()
        if not short or TEXT in text or not balanced or nested or _TOWER.search(_LARGE.sub("1000", text)):
            return False
    commands = [set(re.findall(r"\\([A-Za-z]+|.)", text)) for text in (truth, given)]
    constant = not letters(truth) - _CONSTANTS
    allowed = (_NUMERIC if constant else _SYMBOLIC) | commands[0] | ({"exp"} if "e" in truth else set())
    signs = "_<>:;,&=%" + "!|" * constant
    same_signs = all(sign in truth for sign in signs if sign in given)
    same_signs = same_signs and truth.count("'") == given.count("'") and (given[0] != "[" or truth[0] == "[")
    return letters(truth) == letters(given) and commands[1] <= allowed and same_signs


def same_value(truth: str, given: str) -> bool:
    """Whether math-verify finds two cleaned expressions equal, and they agree at a few points, enough for equations."""
    import math_verify
    import sympy

    if not comparable(truth, given):
        return False
    one, two = _parsed(truth), _parsed(given)
    if one is None or two is None or not _agree(one, two):
        return False
    if isinstance(one, sympy.Eq) and isinstance(two, sympy.Eq):
        return True
    untimed: Any = {"timeout_seconds": None}  # this process is killed instead
    return bool(math_verify.verify([one], [two], **untimed))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    """What math-verify reads, all of the text or None; decimals are exact fractions, i is the imaginary unit."""
    import math_verify
    import sympy
    from math_verify.parser import NormalizationConfig

    text = re.sub(
        r"([0-9]*)\.([0-9]+)", lambda found: rf"\frac{{{found[1]}{found[2]}}}{{1{'0' * len(found[2])}}}", text
    )
    spelled = NormalizationConfig(False, False, False, False, "last")
    whole = math_verify.LatexExtractionConfig(False, 0, spelled)
    modes: Any = {"fallback_mode": "no_fallback", "extraction_mode": "first_match", "parsing_timeout": None}
    text = text.replace(ROW, r"\\")
    found = math_verify.parse(f"\\boxed{{{text}}}", [whole], **modes)
    if len(found) != 1 or not isinstance(found[0], sympy.Basic | sympy.MatrixBase):
        return None
    expression: Any = found[0]
    imaginary = [symbol for symbol in expression.free_symbols if symbol.name == "i"]
    return expression.subs(dict.fromkeys(imaginary, sympy.I)) if imaginary else expression


def _agree(one: Any, two: Any) -> bool:
    """Whether expressions have the same values at a few points, and the sides of equations differences of one ratio."""
    import sympy

    matrix: Any = (sympy.MatrixBase, sympy.MatrixExpr)
    equation: Any = sympy.Eq
    if isinstance(one, matrix) and isinstance(two, matrix):
        one, two = (sympy.Matrix(found.doit()) for found in (one, two))
        return one.shape == two.shape and all(map(_agree, one, two))
    equations = isinstance(one, equation) and isinstance(two, equation)
    if equations:
        one, two = one.lhs - one.rhs, two.lhs - two.rhs
    elif not all(isinstance(side, sympy.Expr) for side in (one, two)):
        return True
    names = sorted({symbol.name for symbol in one.free_symbols | two.free_symbols})
    ratios = [ratio for point in range(4 if names else 1) if (ratio := _ratio(one, two, names, point)) is not None]
    expected = ratios[0] if equations and ratios else 1
    return bool(ratios) and all(abs(sympy.N(ratio / expected - 1, 50)) < 1e-40 for ratio in ratios)


def _ratio(one: Any, two: Any, names: list[str], point: int) -> Any:
    """The quotient of two expressions at a point, 1 where both are zero; None where one has no value."""
    import sympy

    values = []
    for expression in (one, two):
        at = {symbol: sympy.Rational(*_coordinate(symbol.name, point)) for symbol in expression.free_symbols}
        values.append(expression.subs(at).evalf(60))
    if not all(value.is_number and value.is_finite for value in values):
        return None
    if values[0] == values[1]:
        return sympy.Integer(1)
    return values[0] / values[1] if values[1] != 0 and values[0] != 0 else sympy.Integer(0)


def _coordinate(name: str, point: int) -> tuple[int, int]:
    """A number of few digits, of either sign, that depends on the name and the point alone."""
    digest = hashlib.blake2b(f"{name}\x1f{point}".encode(), digest_size=3).digest()
    return (int.from_bytes(digest[:2], "big") + 1) * (-1) ** (digest[2] % 2), 2**13


if __name__ == "__main__":
    import logging

    from diffpo.grading.equality import judge

    logging.disable()
    for example in WARM_UP:  # before the first request, whose time is counted
        same_value(example, f"{example}+0")

    def verdict(request: tuple[str, str, str]) -> bool:
        answer, reference, question = request
        return judge(answer, reference, question, same_value)

    serve(verdict, MEMORY_LIMIT)
