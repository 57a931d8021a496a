"""What the question says of its answer: which formula it repeats, in which form it asks for it."""

from __future__ import annotations

import re
from functools import lru_cache

from diffpo.grading.numbers import TURNED, read_number, without_unit
from diffpo.grading.spelling import MAX_LENGTH, TEXT, clean
from diffpo.grading.structure import VARIABLE, split, squeeze

_FORMULA = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
FACTOR = re.compile(
    r"(?:^|[.?!:]\s+)(?:Completely )?[Ff]actor(?:ize|ise)?\b(?! of)|\bfactor(?:ize|ise)? (?:completely|the|this|\$)"
    r"|\bfactored form\b|\bfactorization of\b|\bprime factor|\bproduct of (?:its |powers of )?primes?\b"
)
_EXPAND = re.compile(r"(?:^|[.?!:]\s+)[Ee]xpand\b|\bexpanded form\b|\bexpand the\b")


def only_formula(text: str) -> str:
    r"""The one formula, between dollars or \( \), of an answer that is a sentence; "" if there is none or several."""
    found = _FORMULA.findall(text)
    around = _FORMULA.sub(" ", text)
    if len(found) != 1 or not re.fullmatch(r"[A-Za-z\s.,:'-]*[A-Za-z][A-Za-z\s.,:'-]*", around):
        return ""
    return "" if TURNED.search(around) or re.search(r"\bthan\b", around) else "".join(found[0])


@lru_cache(maxsize=4096)
def formulas(question: str) -> frozenset[str]:
    """The formulas of a question, cleaned."""
    return frozenset(_cleaned("".join(found)) for found in _FORMULA.findall(question[:4000]))


@lru_cache(maxsize=4096)
def _pieces(question: str) -> frozenset[str]:
    """The formulas of a question, their sides, and its words."""
    sides = (side for formula in formulas(question) for side in re.split(rf"=|{TEXT}[^{TEXT}]*", formula))
    return frozenset((*formulas(question), *map(_cleaned, sides), *map(_cleaned, question[:4000].split())))


def _cleaned(text: str) -> str:
    return squeeze(clean(text)) if len(text) <= MAX_LENGTH else ""


def repeats(given: str, question: str) -> bool:
    """Whether the answer is an expression of the question that was to be worked out, such as a fraction to reduce.

    A number in lowest terms is worked out, but for a decimal where a fraction is asked for.
    """
    if re.search("[=,]", given) or re.fullmatch(rf"{VARIABLE}|\([A-Z]\)", given):
        return False
    number = read_number(without_unit(given)[0])
    if (
        number
        and number.reduced
        and not (number.decimal and re.search(r"\b(?:[Ee]xpress|[Cc]onvert|[Ww]rite)\b", question))
    ):
        return False
    return squeeze(given) in _pieces(question)


def in_form(truth: str, given: str, question: str) -> bool:
    """A product where the question asks to factor, no product of sums where it asks to expand."""
    if (factors := _factors(truth)) and FACTOR.search(question):
        return _factors(given) == factors
    if read_number(given) or not re.search(r"(?<![A-Za-z\\])[A-Za-z]", given):
        return True
    if FACTOR.search(question):
        return len([part for part in split(given, "+ -") if part]) == 1
    return not (_EXPAND.search(question) and re.search(r"\([^()]*[^()]\s*[-+][^()]*\)", given) and "(" not in truth)


def _factors(text: str) -> list[int]:
    """The whole numbers that make a product, in the order of their size, powers written out; [] for another text."""
    parts = re.split(r"\\cdot|\\times|[*x]", squeeze(text))
    powers = [re.fullmatch(r"([0-9]+)(?:\^\{([0-9])\})?", part) for part in parts]
    factors = [int(power[1]) for power in powers if power for _ in range(int(power[2] or 1))]
    return sorted(factors) if all(powers) and len(factors) > 1 else []
