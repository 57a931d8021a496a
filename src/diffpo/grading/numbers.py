"""Numbers in cleaned answers, exact; units behind a value; and the one number that a sentence states."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from diffpo.grading.spelling import FUNCTIONS, TEXT, clean

_UNITS = {
    "cm": "cm centimeter centimetre", "mm": "mm millimeter millimetre", "m": "m meter metre",
    "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard",
    "mile": "mi mile", "second": "s sec second", "minute": "min minute", "hour": "h hr hour", "day": "day",
    "week": "week wk", "month": "month", "year": "year yr", "cent": "cent \u00a2", "dollar": "dollar usd $",
    "euro": "euro eur \u20ac", "pound sterling": "gbp \u00a3", "yen": "yen jpy \u00a5", "rupee": "rupee inr rs \u20b9",
    "g": "g gram", "kg": "kg kilogram", "pound": "lb pound", "ounce": "oz ounce", "degree": "degree",
    "radian": "radian rad",    "liter": "l liter litre", "ml": "ml milliliter millilitre", "gallon": "gallon gal",
    "": "unit sq square cu cubic mph kph pm am per each a of an",
}  # fmt: skip
UNITS = {word: unit for unit, words in _UNITS.items() for word in words.split()}
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
SHAPES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_NO_UNIT = FUNCTIONS | frozenset(
    [
        "if",
        "when",
        "where",
        "for",
        "mod",
        "modulo",
        "not",
        "unless",
        "except",
        "to",
        "or",
        "and",
        "plus",
        "minus",
        "negative",
        "times",
        "over",
        "base",
        "less",
        "more",
        "below",
        "above",
        "squared",
        "cubed",
        "factorial",
        "choose",
        "from",
        "at",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
    ]
)
_COIN = "[$\u20ac\u00a3\u00a5\u20b9\u00a2]"
_MONEY = rf"\\?{_COIN}"
_WORD = rf"(?:[A-Za-z]+\.?|{_MONEY})(?:\s*\^\{{-?[0-9]\}})?"
_UNIT = re.compile(
    rf"((?:(?<=[0-9}})%]) *|(?<=[0-9A-Za-z}})%]) *{TEXT})[ /]*)({_WORD}(?:(?: |/|-|\\cdot|{TEXT})+{_WORD})*)[ .]*$"
)


class Unit(NamedTuple):
    """What stands behind a value: the scale of a word (million), and known units with their powers in written order."""

    scale: int = 1
    powers: tuple[tuple[str, int], ...] = ()

    def contradicts(self, other: Unit) -> bool:
        """Dollars and cents, or square and cubic centimeters; an unknown or a missing unit contradicts none."""
        return bool(self.powers and other.powers and self.powers[0] != other.powers[0])


def without_unit(text: str, reference: bool = False) -> tuple[str, Unit]:
    """A cleaned value without its unit or noun. In a `reference` one or two letters are units only if once text."""
    found, money = _UNIT.search(text), re.match(rf"[-+ ]*\\?({_COIN})", text)
    front = ((UNITS[money[1]], 1),) if money else ()
    words = re.findall(rf"([A-Za-z]+|{_MONEY})\.?(?:\s*\^\{{(-?[0-9])\}})?", found[2]) if found else []
    names = [name.lower().lstrip("\\") for name, _ in words]
    odd = any(_known(name) is None and (len(name) == 1 or name in SCALES) for name in names[1:])
    if not found or odd or _NO_UNIT.intersection(names):
        return text, Unit(1, front)
    known = _known(names[0]) is not None or names[0] in SCALES
    apart = found[1] != "" and len(names[0]) >= 3
    if not (known or apart) or (reference and TEXT not in found[0] and len(names[0]) < 3 and names[0].isalpha()):
        return text, Unit(1, front)
    power = next((SHAPES[name] for name in names if name in SHAPES), 1)
    powers = tuple((_known(name) or "", int(up or power)) for name, (_, up) in zip(names, words, strict=True))
    behind = tuple(unit for unit in powers if unit[0])
    return text[: found.start()].strip(), Unit(SCALES.get(names[0], 1), front or behind)


def _known(word: str) -> str | None:
    return UNITS.get(word, UNITS.get(word.removesuffix("s")))


class Number(NamedTuple):
    """A number that is written as one, with no arithmetic left: 5, -1.5, 3/4, 1 1/2, 2 * 10^5, 50 %."""

    value: Fraction
    percent: bool
    reduced: bool
    decimal: bool
    fraction: bool


_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(
    rf"""\s*(?P<sign>[-+]?)\s*(?:{_MONEY})?\s*(?P<minus>-?)\s*
    (?: (?:(?P<whole>{_WHOLE})\s*)? \\frac\{{\s*(?P<over>-?{_WHOLE})\s*\}}\{{\s*(?P<under>-?{_WHOLE})\s*\}}
      | (?:(?P<whole2>{_WHOLE})\ +)? (?P<over2>{_WHOLE})\s*/\s*(?P<under2>{_WHOLE})
      | (?P<mantissa>(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)) (?:\\overline\{{(?P<period>[0-9]+)\}})?
        (?: \s*(?:\\times|\\cdot|\*)\s*10\^\{{(?P<power>[-+]?[0-9]{{1,3}})\}} | [eE](?P<power2>[-+]?[0-9]{{1,3}}) )?
    ) \s*(?P<percent>\\%)?\s*""",
    re.VERBOSE,
)


def read_number(text: str) -> Number | None:
    """The number that all of a cleaned text without unit is."""
    found = _NUMBER.fullmatch(text)
    if found is None or (found["sign"] and found["minus"]):
        return None
    parts = (
        found["whole"] or found["whole2"] or "0",
        found["over"] or found["over2"],
        found["under"] or found["under2"],
    )
    whole, over, under = (int((part or "1").replace(",", "")) for part in parts)
    if under == 0 or (whole and not 0 < Fraction(over, under) < 1):
        return None
    value = _decimal(found) if found["mantissa"] else whole + Fraction(over, under)
    negative = "-" in (found["sign"], found["minus"])
    reduced = bool(found["mantissa"]) or Fraction(over, under).denominator == abs(under)
    return Number(
        -value if negative else value,
        bool(found["percent"]),
        reduced,
        "." in (found["mantissa"] or ""),
        not found["mantissa"],
    )


def _decimal(found: re.Match[str]) -> Fraction:
    """12.5, 0.1 with the period 36, 2 * 10^5, 1.5e3."""
    digits = found["mantissa"].replace(",", "").rstrip(".")
    value = Fraction(digits)
    if found["period"]:
        value += Fraction(int(found["period"]), (10 ** len(found["period"]) - 1) * 10 ** len(digits.partition(".")[2]))
    return value * Fraction(10) ** int(found["power"] or found["power2"] or 0)


def parse_number(text: str) -> Fraction | None:
    """The number that all of a text is, in whatever notation, without a unit; None for anything else."""
    try:
        number = read_number(clean(text))
    except ValueError:
        return None
    return None if number is None else number.value


def same_number(truth: Number, scale: int, given: Number, other: int, question: str) -> bool:
    """Equal in value, whatever the notation: 50 % is a half; 2 million is 2, and 50 % is 50, where these are asked for.

    `scale` and `other` are those of the units behind the two. No question asks for percent, but for no scale.
    """
    readings = {given.value * other / (100 if given.percent and not truth.percent else 1)}
    if given.percent and not given.fraction and (not question or re.search(r"%|percent", question)):
        readings.add(given.value)
    if re.search(rf"\b(?:many|in|of|nearest) (?:{'|'.join(SCALES)})", question):
        readings |= {given.value, given.value * other / scale}
    return truth.value * scale in readings


_STATED = re.compile(rf"(?:[-+] ?)?(?:{_MONEY} ?)?-?(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+)(?:\.[0-9]+)?")
TURNED = re.compile(
    r"\b(?:half|third|quarter|twice|double|triple|thrice|times|dozen|hundred|thousand|million|billion|squared|cubed|root"
    r"|power|factorial|reciprocal|inverse|opposite|multiple|plus|minus|negative|below|between|either|not|no|never|neither"
    r"|nor|except|unless|without|least|most|exceed\w*|under|over|almost|nearly|up to)\b|n't\b"
    r"|\b(?:more|less|fewer|greater|larger|smaller|higher|lower|other)\s+than\s+(?:or equal to\s+)?[-$\\0-9]"
    r"|,\s*(?:more|less|fewer|greater|higher|lower|above|up)\b",
    re.IGNORECASE,
)
"""Words that leave arithmetic to do, turn a statement round, or make it a bound."""
_UNFINISHED = re.compile(r"[0-9)]\s*[-+*/^!]|\\(?!\$|%)|[<>|{}\[\]]|-\s*\(|[A-Za-z]\s*\\%|[!']\s*$|(?<!['.])\b[b-z]\b")
"""Arithmetic in signs, and letters that are no words."""


def stated_number(text: str) -> Fraction | None:
    """The one number that a sentence states, after its last equals sign: "She makes 9 * 2 = $18 a day" says 18.

    None where there is no word, more than one number, arithmetic left to do, or a bound instead of a value.
    """
    left, _, text = text.replace(TEXT, " ").rpartition("=")
    if re.search(r"(?<!['.])\b[0-9]*[b-z]\b", left):  # 2x = 5 apples
        return None
    text = re.sub(r"\b([0-9]{1,2}):00\b", r"\1", text)
    if not re.search(r"[A-Za-z]{2}", text) or TURNED.search(text) or _UNFINISHED.search(text):
        return None
    values = {Fraction(re.sub(r"[^-0-9.]", "", number)) for number in _STATED.findall(text)}
    rest = _STATED.sub("#", text)
    return values.pop() if len(values) == 1 and not re.search(r"[\w.,:]#|#[\w^]|#[.,:]#|\d", rest) else None
