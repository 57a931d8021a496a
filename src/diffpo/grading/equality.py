r"""Whether a final answer says what the reference says: written differently is right, left to be worked out is not.

Numbers are compared exactly; lists, tuples, sets, intervals, matrices and named values part by part; what is left, the
expressions and equations, goes to math-verify (`algebra`). docs/grading.md gives the rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

from diffpo.grading.algebra import POOL, comparable, letters
from diffpo.grading.expressions import evaluate_expression
from diffpo.grading.numbers import (
    Unit,
    asked_unit,
    read_number,
    same_number,
    same_quantity,
    stated_number,
    without_unit,
)
from diffpo.grading.options import chosen, lists_option, option
from diffpo.grading.questions import FACTOR, formulas, in_form, only_formula, repeats
from diffpo.grading.spelling import TEXT, clean, plain_signs
from diffpo.grading.structure import Items, Member, based, items_of, matrix, members, split, squeeze

MAX_ITEMS = 40
"""Items of a list or set; longer ones are compared as strings only."""
Algebra = Callable[[str, str], bool]
"""Whether two cleaned expressions or equations are the same, reference first."""


@lru_cache(maxsize=4096)
def same_answer(answer: str, reference: str, question: str = "") -> bool:
    """Whether a person who knows that `reference` is right calls `answer` right. Any string is judged within 2 s.

    The question tells an answer from an expression that it merely repeats, a product from a sum where it asks to factor
    or to expand, and whether the left side of an equation is what it asks for.
    """
    try:
        return judge(answer, reference, question, _undecided)
    except Undecided:
        return bool(POOL.ask([answer, reference, question]))


def same_answers(triples: Sequence[tuple[str, str, str]]) -> list[bool]:
    """`same_answer` of several (answer, reference, question), on all cores."""
    with ThreadPoolExecutor(POOL.size) as threads:
        return list(threads.map(lambda triple: same_answer(*triple), triples))


class Undecided(Exception):
    """Only algebra can tell."""


def _undecided(truth: str, given: str) -> bool:
    if not comparable(truth, given):
        return False
    raise Undecided


def judge(answer: str, reference: str, question: str, algebra: Algebra) -> bool:
    """The verdict of `same_answer`, by the `algebra` that is given."""
    answer = answer.strip()
    try:
        truth, given = clean(reference), clean(answer)
        ours, theirs = _joined(reference), _joined(answer)
        if (ours and theirs and ours != theirs) or _joins_otherwise(plain_signs(reference), plain_signs(answer)):
            return False
        if _RATIO_ASKED.search(question) and (_RATIO.fullmatch(truth) is None) != (_RATIO.fullmatch(given) is None):
            truth, given = (_RATIO.sub(r"\1/\2", text) for text in (truth, given))
        if squeeze(truth) == squeeze(given) != "":
            return True
        if Comparison(algebra, question).same(truth, given):
            return (_is_words(truth) or not repeats(given, question)) and in_form(truth, given, question)
        rests = (only_formula(answer), re.sub(_DECIMALS, r"\1", answer), re.sub(_MIXED, r"\1 ", answer))
        return any(judge(rest, reference, question, algebra) for rest in rests if rest not in ("", answer))
    except (ValueError, RecursionError):
        return False


_RATE_ASKED = re.compile(r"\b(?:per|each|every|rate|speed|fast|hourly|daily)\b", re.I)
_RATIO, _RATIO_ASKED = re.compile(r"^([0-9]+)\s*:\s*([0-9]+)$"), re.compile(r"\bratio\b", re.I)


def _joined(text: str) -> list[bool]:
    """Of each sign for "or" and "and" in the order of a text, whether it says "or"; words for them make lists alone."""
    return [sign in ("lor", "vee") for sign in re.findall(r"\\(lor|land|vee|wedge)(?![A-Za-z])", plain_signs(text))]


_DECIMALS = (
    r"^(?=.*(?:\\(?:sqrt|pi)(?![A-Za-z])|[√π]))([$\s]*(?:[A-Za-z]\s*=)?(?:\\(?:[dt]?frac|sqrt|pi|cdot|times)(?![A-Za-z])"
    r"|[^=≈A-Za-z\\])*)(?:\\approx|[=≈])\s*[-0-9]*\.[0-9]+(?:\.{2,}|…|\\[lc]?dots)?([^0-9=]*)$"
)
"""The decimals behind an exact value: \\sqrt{2} \\approx 1.41."""
_MIXED = r"(?i)\b([0-9]+|[a-z]{3,})(?:\s*\\text\{)?\s+and\s+\}?\s*(?=[0-9]+\s*/|\\[dt]?frac)"
"""Two and 1/3, which else is a list."""
_OR = re.compile(r"\\(?:cup|lor|vee)(?![A-Za-z])|(?<![A-Za-z])or(?![A-Za-z])")
_SAYS_WHERE = r"(?:[<>]|\\(?:[lg]eq?(?:slant)?|in)(?![A-Za-z]))"
_BOTH = re.compile(rf"{_SAYS_WHERE}.*(?<![A-Za-z])and(?![A-Za-z]).*{_SAYS_WHERE}")
_EITHER = re.compile(r"([A-Za-z])\s*=[^=]*(?<![A-Za-z])or(?![A-Za-z])(?:[^=A-Za-z,;]|\\q?quad)*(?!\1)[A-Za-z]\s*=")
"""x < 2 and x > 5; x = 1 or y = 2."""


def _joins_otherwise(reference: str, answer: str) -> bool:
    """Whether an answer says "and" of bounds where the reference says "or", or "or" of the values of two names."""
    if _OR.search(reference):
        return bool(_BOTH.search(answer)) and not _OR.search(answer)
    return bool(_EITHER.search(answer))


class Comparison(NamedTuple):
    """How to compare what no rule decides, and the question, which tells what is asked for."""

    algebra: Algebra
    question: str

    def same(self, truth: str, given: str) -> bool:
        """Whether two cleaned answers say the same."""
        if _TEXT_FORMULA.fullmatch(truth):
            truth, given = (text.replace(TEXT, " ").strip() for text in (truth, given))
        if (same := same_quantity(truth, given, asked_unit(self.question))) is not None:
            return same
        value, unit = self._without_unit(truth)
        number, plain = read_number(value), read_number(without_unit(given)[0])
        if number and not plain and (stated := stated_number(given)):
            said, other = stated
            unit, other = unit.beside(other), other.beside(unit)
            return not unit.contradicts(other) and same_number(number, unit.scale, said, other.scale, self.question)
        letter = re.fullmatch(r"\(?([A-Z])\)?", truth.replace(TEXT, " ").strip())
        if letter and chosen(given, self.question) == letter[1].lower():
            return True
        name, said = (letter[1], "") if letter else option(truth)
        if name and lists_option(self.question, name):
            return self._same_option(name, said, given)
        if not number and _is_words(value):
            signs = set(re.findall(_NO_WORD, given)) <= set(re.findall(_NO_WORD, truth))
            if signs and _words(truth) in (_words(given), chosen(given, self.question)):
                return True
            if not _PRODUCT.fullmatch(value):
                return False
        if _is_row(truth) and not FACTOR.search(self.question):
            return _is_row(given) and re.findall("[0-9]+|-", truth) == re.findall("[0-9]+|-", given)
        if "\\ldots" in truth + given:
            return len(items_of(truth).items) > 1 and self._ordered(items_of(truth), items_of(given))
        return self._same_members(truth, given)

    def _same_option(self, letter: str, said: str, given: str) -> bool:
        """Whether an answer names an option that the question lists, or says what stands behind its letter."""
        alone = re.fullmatch(r"\(?([A-Za-z])\)?", given.replace(TEXT, " ").strip())
        if letter.lower() in (chosen(given, self.question), alone and alone[1].lower()):
            return True
        return said != "" and not alone and Comparison(self.algebra, "").same(said, given)

    def _without_unit(self, truth: str) -> tuple[str, Unit]:
        """A reference and its unit, that which the question asks for where it has none."""
        value, unit = without_unit(truth, reference=True)
        unit = unit if unit.powers or value != truth.strip() else asked_unit(self.question)
        return value, unit._replace(rate=None) if _RATE_ASKED.search(self.question) else unit

    def _ordered(self, ours: Items, theirs: Items) -> bool:
        brackets = (ours.left, ours.right) == (theirs.left, theirs.right)
        return brackets and self._in_order(ours.items, theirs.items)

    def _in_order(self, ours: Sequence[str], theirs: Sequence[str]) -> bool:
        return len(ours) == len(theirs) and all(map(self.same, ours, theirs))

    def _same_members(self, truth: str, given: str) -> bool:
        """A list may be in any order; values of different names go by their names, or by their order."""
        ours, theirs = members(truth), members(given)
        if not ours or not theirs or max(len(ours), len(theirs)) > MAX_ITEMS:
            return False
        names = [{member.name.partition("_")[0] for member in found} for found in (ours, theirs)]
        if (len(names[0]) > 1) != (len(names[1]) > 1):  # x=1, x=3 are not x=1, y=3
            letters_alone = all(re.fullmatch("[A-Za-z]", name) for name in names[0] | names[1])
            return not letters_alone and self._in_order(_by_name(ours), _by_name(theirs))
        matches = [[self._same_member(one, two) for two in theirs] for one in ours]
        told = [(member.name, squeeze(member.value)) for member in ours]  # 1, 1, 2 is not 1, 2
        repeats = len(set(told)) < len(told) and items_of(truth).left != r"\{"
        return all(map(any, zip(*matches, strict=True))) and all(
            sum(row) == told.count(one) if repeats else any(row) for one, row in zip(told, matches, strict=True)
        )

    def _same_member(self, ours: Member, theirs: Member) -> bool:
        if ours.name and theirs.name and _differ(ours.name, theirs.name):
            return False
        truth, unit = self._without_unit(re.sub(_TEN, "", ours.value))
        given, other = without_unit(self._right_side(theirs.value), reference=bool(letters(truth)))
        given = given if based(truth)[0] else re.sub(_TEN, "", given)
        number, stated = read_number(truth), read_number(given)
        if number and stated:
            unit, other = unit.beside(other), other.beside(unit)
        if unit.contradicts(other) or (other.scale != 1 and stated is None):
            return False
        if number is not None:
            if stated is None or (stated.percent and unit.powers):
                return False
            return same_number(number, unit.scale, stated, other.scale, self.question)
        if squeeze(truth) == squeeze(given):
            return True
        return self._same_value(Member(ours.name, truth), Member(theirs.name, given))

    def _same_value(self, ours: Member, theirs: Member) -> bool:
        truth, given = ours.value, theirs.value
        rows, cells = matrix(truth), matrix(given)
        if rows is not None and cells is not None:
            return len(rows) == len(cells) and all(map(self._in_order, rows, cells))
        one, two = items_of(truth), items_of(given)
        if one.left or two.left:
            return self._ordered(one, two)
        digits, base = based(truth)
        if digits or based(given)[0]:
            return based(given) == (digits, base) or bool(digits and squeeze(given) == digits)
        if "=" in truth or "=" in given:
            truth, given = (f"{name}={value}" if name and "=" not in value else value for name, value in (ours, theirs))
        return self.algebra(truth, given)

    def _right_side(self, given: str) -> str:
        """The right side of an equation whose left one the question asks for, or works out to it: 4 + 5 = 9."""
        *left, right = split(given, "=")
        if not left or not right:
            return given
        asked = all(squeeze(side) in formulas(self.question) or _works_out(side, right) for side in left)
        return right if asked else given


_TEN = r"(?<=[0-9])_\{10\}$"


def _works_out(side: str, right: str) -> bool:
    value = evaluate_expression(side) or read_number(side)
    stated = read_number(without_unit(right)[0])
    return value is not None and stated is not None and value.value == stated.value


def _by_name(found: list[Member]) -> list[str]:
    """The values in the alphabetical order of their names; of a tuple without names its items, of a list its order."""
    if len(found) == 1 and items_of(found[0].value).left == "(":
        names, values = items_of(found[0].name).items, items_of(found[0].value).items
        return [value for _, value in sorted(zip(names, values, strict=True))] if len(names) == len(values) else values
    return [member.value for member in sorted(found, key=lambda member: member.name)]


def _differ(one: str, two: str) -> bool:
    """Whether two names are letters, and others, or the same in another order: (b, a) for (a, b); f(2) and f(3)."""
    calls = [re.fullmatch(r"([A-Za-z]'*)\((.*)\)", name) for name in (one, two)]
    if all(calls):
        (f, x), (g, y) = (call.groups() for call in calls if call)
        return f != g or (x != y and not (re.fullmatch("[a-z]", x) and re.fullmatch("[a-z]", y)))
    one, two = (re.sub(r"^m?\\angle(?=[A-Z])", "", name) for name in (one, two))
    short = r"\\?[A-Za-z]{1,2}'*(?:_\{\w+\})?|\\[a-z]+(?:_\{\w+\})?"
    letters = re.fullmatch(short, one) and re.fullmatch(short, two)
    return one != two and (bool(letters) or sorted(one) == sorted(two))


def _is_row(text: str) -> bool:
    """Whether whole numbers make a score, a range, a date or a size: 3-2, 2020-12-25, 2 x 3."""
    return bool(re.fullmatch(r"[0-9]+(?:(?:-|\\times|x|by)[0-9]+)+", squeeze(text)))


# --- words -------------------------------------------------------------------------------------------------------

_NO_WORD = r"\\(?:[A-Za-z]+|.)|[-!|=^_*+/<>\[\]](?![A-Za-z])|^-|['?]$"

_TEXT_FORMULA = re.compile(rf"\s*{TEXT}(?=.*[-+*/^=<>])(?:[^A-Za-z\\{TEXT}]|[A-Za-z](?![A-Za-z]))*")
r"""No words, for all that it is text: \text{a-b}."""
_FORMULA_SIGN = re.compile(r"[\^_+=]|\\(?:frac|sqrt|pi|cdot|times)(?![A-Za-z])|[0-9)][a-z]{3}|[a-z]{3}\(")
_PRODUCT = re.compile("-?[b-df-hj-np-tv-z]{3,4}")
"""Letters that make no word: xyz."""


def _is_words(truth: str) -> bool:
    """Whether a cleaned reference is in words: it was text, or has a word of three letters, or names an option.

    Letters side by side in a formula, abc / 4R, are factors.
    """
    rest = re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+", "", truth)
    words = re.findall(r"[A-Za-z]{3,}", rest)
    if TEXT in truth or re.search("[0-9]:[0-9]", rest) or re.fullmatch(r"\([A-Z]\)", truth):
        return True
    return bool(words) and not (_FORMULA_SIGN.search(truth) and all(re.fullmatch("[a-z]{3,4}", word) for word in words))


def _words(text: str) -> str:
    """The words and numbers of a text, in lower case, without its article: "(C)" is "c"."""
    words = re.findall(r"[a-z]+|-?[0-9.]*[0-9]", re.sub(r"\\[A-Za-z]+", " ", text).lower())
    return re.sub("^(?:an?|the) (?=[a-z]{2})", "", " ".join(words))
