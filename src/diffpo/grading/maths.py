r"""Final answers of mathematics: what kind of thing one is (number, list, interval, matrix, word) and reading it."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from diffpo.grading.latex import (
    FUNCTIONS,
    MAX_LENGTH,
    Node,
    Token,
    Unreadable,
    is_numeral,
    names,
    read_expression,
    split_top,
    tokenize,
)
from diffpo.grading.values import close, evaluate, symbols


class Expression(NamedTuple):
    """A value, its % sign, the scale word behind it (million) and its unit where that is a known one."""

    node: Node
    percent: bool = False
    scale: int = 1
    unit: str = ""


class Words(NamedTuple):
    """An answer in words, normalised: "east", "c" for "(C)"."""

    text: str


class Based(NamedTuple):
    """Digits in a base other than ten."""

    digits: str
    base: str


class Items(NamedTuple):
    """A list (no brackets), a set ({}), a tuple or an interval: round and square brackets."""

    left: str
    items: tuple[Answer, ...]
    right: str


class Union(NamedTuple):
    """Intervals and sets joined."""

    parts: tuple[Answer, ...]


class Matrix(NamedTuple):
    """Rows of entries."""

    rows: tuple[tuple[Answer, ...], ...]


class Equation(NamedTuple):
    """Two sides, neither of them a mere name."""

    left: Node
    right: Node


class Named(NamedTuple):
    """ "x = 5" or "x in [0, 1)": a name and what it is."""

    name: str
    answer: Answer


Answer = Expression | Words | Based | Items | Union | Matrix | Equation | Named

_UNICODE = {
    **{"\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": "/"},
    **{"\u221a": r"\sqrt ", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u00b0": r"^\circ ", "\u00b1": r"\pm "},
    **{
        "\u2248": "=",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u222a": r"\cup ",
        "\u2208": r"\in ",
        "\u00b2": "^2",
        "\u00b3": "^3",
    },
    **{"\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u2205": r"\emptyset ", "\u03b8": r"\theta "},
}
_TEXT = r"\\(?:text|mbox|textbf|textit|textrm|mathrm|operatorname|mathsf|texttt)\s*\{([^{}]*)\}"
ROW = "\x02"
"""Stands for the end of a matrix row."""
_CLEAN = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:boxed|fbox)\s*(?=\{)", ""),
        (r"\\text\s*\{(\s*[-$0-9][^{}]*)\}", r" \1 "),
        (r",\s*\\!\s*|\{,\}", ","),  # 10,\!080 and 10{,}080
        (r"(?<=[0-9])(?:\\[, ]|\s|~)(?=[0-9]{3}(?![0-9]))", ","),  # 10\,080 and 10 080
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|[!])(?![A-Za-z])\.?", ""),
        (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])", " "),
        (r"\\?\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?|\\degree(?![A-Za-z])", " "),
        (r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])", "^"),
        (r"\\\$|\$|\*\*", " "),
        (r"\\(?:approx|simeq)(?![A-Za-z])", "="),
        (r"(?<=[0-9])\s*\^?\s*\{?\s*(?:\\text\s*\{)?\s*(?:st|nd|rd|th)\s*\}{0,2}(?![A-Za-z}])", " "),  # 12th
        (r"\\frac\s*\{\s*\\text\s*\{[^{}]*\}\s*\}\s*\{\s*\\text\s*\{[^{}]*\}\s*\}", r"\\text{per}"),  # miles over hours
        (r"(?<=[\])])\s*U\s*(?=[\[(])", r"\\cup "),
        (r"\\[()\[\]]", " "),
        (r"\\(?:[dtc])frac", r"\\frac"),
        (_TEXT.replace("([^{}]*)", r"\s*(?:or|and|,)\s*"), " , "),
        (r"(?<![A-Za-z\\{])(?:or|and)(?![A-Za-z}])", " , "),
        (r",(?:\s*,)+", ","),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])", r"\\{\\}"),
        (r"[.,;:\s]+$|^[=\s]+", ""),
    )
]
_UNIT_NAMES = {
    "cm": "cm centimeter centimetre",
    "mm": "mm millimeter millimetre",
    "m": "m meter metre",
    "km": "km kilometer kilometre",
    "inch": "in inch inche",
    "foot": "ft foot feet",
    "yard": "yd yard",
    "mile": "mi mile",
    "second": "s sec second",
    "minute": "min minute",
    "hour": "h hr hour",
    "day": "day",
    "week": "week wk",
    "month": "month",
    "year": "year yr",
    "cent": "cent ¢",
    "dollar": "dollar usd",
    "g": "g gram",
    "kg": "kg kilogram",
    "pound": "lb pound",
    "ounce": "oz ounce",
    "degree": "degree",
    "percent": "percent",
    "": "unit sq mph kph ml l pm am",
}
UNITS = {word: unit for unit, words in _UNIT_NAMES.items() for word in words.split()}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "dozen": 12}
_CONNECTIVES = names("if when where for mod modulo not unless except to or and plus minus times over of base")
_NOUN_PHRASE = re.compile(r"(?<=[0-9}%)])(\s*/?\s*)([A-Za-z]+\.?(?:[\s/-]+[A-Za-z]+\.?)*(?:\^\{?[23]\}?)?)$")
_RELATIONS = {"<": "<", ">": ">", "le": "<=", "ge": ">=", "lt": "<", "gt": ">"}


def clean(text: str) -> str:
    """The answer without sizing, spacing, dollars, degrees and outer punctuation, in ASCII signs."""
    text = text.strip()
    if len(text) > MAX_LENGTH:
        raise Unreadable("too long for an answer")
    for sign, plain in _UNICODE.items():
        text = text.replace(sign, plain)
    text = re.sub(r"\\\\(?:\[[^\]]*\])?", f" {ROW} " if r"\begin" in text else r"\\", text)
    for pattern, replacement in _CLEAN:
        text = pattern.sub(replacement, text)
    return text.strip()


def words_of(text: str) -> str:
    r"""Letters and digits of an answer in words, lower case: "(C)" and "\text{C}" are "c"."""
    text = re.sub(_TEXT, r" \1 ", text.replace("$", " "))
    return " ".join(re.findall(r"[a-z0-9]+", re.sub(r"\\[A-Za-z]+", " ", text).lower()))


def is_words(text: str) -> bool:
    """Whether a reference answer is in words: all of it is text, or a word of three letters that is no function."""
    rest = re.sub(_TEXT, "", text)
    if rest != text and not re.search(r"[A-Za-z0-9\\]", rest):
        return True
    plain = re.fullmatch(r"[A-Za-z][A-Za-z .,'()-]*", text.strip())
    found = re.findall(r"[A-Za-z]{3,}", text)
    return bool(plain and found) and not FUNCTIONS.intersection(found) and not {"sqrt", "infty"}.intersection(found)


def read_answer(text: str, reference: bool = False) -> Answer:
    """What an answer says. Only a `reference` may be in words, and in it a plain word is no unit.

    Unreadable if it is not made of mathematics that the reader knows, or longer than MAX_LENGTH.
    """
    if reference and is_words(text):
        return Words(words_of(text))
    try:
        cleaned = clean(text)
        name, equals, body = cleaned.rpartition("=")
        if r"\begin" in body and equals:
            return Named(words_of(name), read_answer(body))
        matrix = re.fullmatch(
            r"(.*?)\\begin\{([a-zA-Z]*matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\2\}", cleaned, re.DOTALL
        )
        if matrix:
            return _read_matrix(matrix[1], matrix[3])
        cleaned, scale, unit = (cleaned, 1, "") if reference else _without_nouns(cleaned)
        answer = _read(tokenize(cleaned))
    except RecursionError:
        raise Unreadable("nested too deep") from None
    if isinstance(answer, Expression) and (scale, unit) != (1, ""):
        return answer._replace(scale=scale, unit=unit)
    return answer


def _without_nouns(text: str) -> tuple[str, int, str]:
    """An answer such as "12 apples" or "5 million dollars" without its words, their scale, and a known unit."""
    found = _NOUN_PHRASE.search(text)
    if not found:
        return text, 1, ""
    words = re.findall(r"[A-Za-z]+", found[2].lower())
    known = words[0] in UNITS or words[0].removesuffix("s") in UNITS or words[0] in SCALES
    noun = known or (bool(found[1]) and len(words[0]) >= 3)  # "2 cm", "2cm", "2 cats", but not 2ab
    if not noun or _CONNECTIVES.intersection(words) or words[0] in FUNCTIONS:
        return text, 1, ""
    return text[: found.start()], *_unit(words)


def _unit(words: list[str]) -> tuple[int, str]:
    """The scale of a unit's first word, and which of the known units it is."""
    scale = SCALES.get(words[0], 1) if words else 1
    words = [word for word in words if word not in ("square", "cubic", "sq", "cu", "of") and word not in SCALES]
    word = words[0] if len(words) == 1 else ""
    return scale, UNITS.get(word) or UNITS.get(word.removesuffix("s"), "")


def _read_matrix(scalar: str, body: str) -> Answer:
    factor = read_expression(tokenize(scalar)) if scalar.strip() else None
    rows = [row.split("&") for row in body.split(ROW) if row.strip()]
    cells = tuple(tuple(_scaled(read_expression(tokenize(cell)), factor) for cell in row) for row in rows)
    if not cells or len({len(row) for row in cells}) != 1:
        raise Unreadable("a matrix has rows of one length")
    return Matrix(cells)


def _scaled(node: Node, factor: Node | None) -> Expression:
    """An entry times the factor before its matrix, worked out where both are numerals."""
    if factor is None:
        return Expression(node)
    product = Node("*", (factor, node))
    value = evaluate(product) if is_numeral(factor) and is_numeral(node) else None
    return Expression(Node("number", value=value) if isinstance(value, Fraction) else product)


def _read(tokens: list[Token]) -> Answer:
    """An answer that is not a matrix: a list, else a union, else one thing."""
    parts = split_top(tokens, frozenset(",;"))
    if len(parts) > 1:
        items = tuple(_read(part) for part in parts)
        intervals = all(isinstance(item, Items) and item.left in "([" and item.left for item in items)
        by_name = any(token.text in _RELATIONS for token in tokens)
        return Union(items) if intervals and by_name else Items("", items, "")
    parts = split_top(tokens, frozenset(("cup",)))
    if len(parts) > 1:
        return Union(tuple(_read(part) for part in parts))
    return _read_relation(tokens)


def _read_relation(tokens: list[Token]) -> Answer:
    inside = split_top(tokens, frozenset(("in",)))
    if len(inside) == 2 and _name(inside[0]):
        return Named(_name(inside[0]), _read(inside[1]))
    sides = split_top(tokens, frozenset(("=",)))
    if len(sides) == 1:
        bounded = any(token.text in _RELATIONS and token.kind != "text" for token in tokens)
        return _read_inequality(tokens) if bounded else _read_one(tokens)
    if not all(sides):
        raise Unreadable("an equation with an empty side")
    if names := [_name(side) for side in sides[:-1] if _name(side)]:
        return Named(names[0], _read(sides[-1]))
    left, right = read_expression(_without_unit(sides[0])[0]), read_expression(_without_unit(sides[-1])[0])
    if not symbols(left) | symbols(right) and is_numeral(right) and close(evaluate(left), evaluate(right)):
        return _read_one(sides[-1])  # 4 + 5 = 9 says 9
    if len(sides) > 2:
        raise Unreadable("more than one equation")
    return Equation(left, right)


def _name(tokens: list[Token]) -> str:
    """The name that stands left of an equals sign: x, f(x), AB, \text{Area}; "" for an expression such as 2x."""
    if len(tokens) > 1 and all(token.kind in ("symbol", "(", ")", ",") for token in tokens) and tokens[0].kind == "(":
        return "".join(token.text for token in tokens)  # (x, y)
    if not tokens or tokens[0].kind not in ("symbol", "text", "command"):
        return ""
    if any(token.text in ("+", "-", "*", "/", "^", "frac", "sqrt", "times", "cdot", "|", "!") for token in tokens):
        return ""
    letters = "".join(token.text for token in tokens if token.kind == "symbol")
    product = len(letters) == 2 and letters.islower() and not any(token.text in "_(" for token in tokens)
    known = tokens[0].text in FUNCTIONS or tokens[0].text in ("binom", "pi")
    return "" if product or known else "".join(token.text for token in tokens)


def _read_inequality(tokens: list[Token]) -> Items:
    """The interval of one variable that "x > 2" or "2 < x <= 3" describes."""
    signs = [_RELATIONS[token.text] for token in tokens if token.text in _RELATIONS]
    nodes = [read_expression(_without_unit(side)[0]) for side in split_top(tokens, frozenset(_RELATIONS))]
    if signs[0][0] == ">":
        nodes, signs = nodes[::-1], [sign.replace(">", "<") for sign in signs[::-1]]
    infinity = Node("symbol", name="infty")
    if len(nodes) == 2 and symbols(nodes[0]):
        nodes, signs = [Node("neg", (infinity,)), *nodes], ["<", *signs]
    elif len(nodes) == 2:
        nodes, signs = [*nodes, infinity], [*signs, "<"]
    ends = [node for node in nodes[::2] if not symbols(node)]
    if len(nodes) != 3 or len(ends) != 2 or nodes[1].op != "symbol" or not set(signs) <= {"<", "<="}:
        raise Unreadable("not an inequality of one variable")
    left, right = ("[" if signs[0] == "<=" else "("), ("]" if signs[1] == "<=" else ")")
    return Items(left, (Expression(ends[0]), Expression(ends[1])), right)


_BRACKETS = {"(": "(", "[": "[", "lbrace": "{", "{": "{", "langle": "("}


def _read_one(tokens: list[Token]) -> Answer:
    """A bracketed tuple, interval or set, a number in a base, or an expression with its unit."""
    if len(tokens) > 1 and tokens[0].text in _BRACKETS and _encloses_all(tokens):
        left, right = _BRACKETS[tokens[0].text], {"rbrace": "}", "rangle": ")"}.get(tokens[-1].text, tokens[-1].text)
        parts = split_top(_without_thousands(tokens[1:-1]), frozenset(","))
        if len(parts) > 1 or tokens[0].text == "lbrace":
            return Items(left, tuple(_read(part) for part in parts if part or len(parts) > 1), right)
    kinds = "".join(token.kind[0] for token in tokens)
    if kinds in ("n_n", "n_{n}"):
        return Based(tokens[0].text.replace(",", ""), tokens[-1 if kinds == "n_n" else -2].text)
    tokens, words = _without_unit(tokens)
    percent = bool(tokens) and tokens[-1].text == "%"
    scale, unit = _unit(words)
    return Expression(read_expression(tokens[:-1] if percent else tokens), percent or unit == "percent", scale, unit)


def _encloses_all(tokens: list[Token]) -> bool:
    """Whether the bracket that opens first closes last."""
    opening, closing, depth = {*_BRACKETS}, {")", "]", "}", "rbrace", "rangle"}, 0
    for index, token in enumerate(tokens):
        depth += (token.text in opening) - (token.text in closing)
        if depth == 0:
            return index == len(tokens) - 1
    return False


def _without_thousands(tokens: list[Token]) -> list[Token]:
    """Between brackets a comma separates: (2,012) is a pair."""
    apart = []
    for token in tokens:
        for index, digits in enumerate(token.text.split(",") if token.kind == "number" else ()):
            apart += [Token(",", ",")] * bool(index) + [Token("number", digits)]
        apart += [token] * (token.kind != "number")
    return apart


def _without_unit(tokens: list[Token]) -> tuple[list[Token], list[str]]:
    r"""The tokens before a unit such as \text{ cm}^2, and the words of the unit."""
    words: list[str] = []
    end = len(tokens)
    while True:
        kinds = "".join(token.kind[0] for token in tokens[max(0, end - 4) : end])
        size = next((len(tail) for tail in ("t^n", "t^{n}", "t/", "t") if kinds.endswith(tail)), 0)
        if kinds.endswith("t^{n}"[-4:]) and end >= 5 and tokens[end - 5].kind == "text":
            size = 5
        if not size or size >= end:
            break
        end -= size
        words = re.findall(r"[a-z%¢]+", tokens[end].text.lower()) + words
    if _CONNECTIVES.intersection(words):
        raise Unreadable("words that are no unit")
    return tokens[:end], words
