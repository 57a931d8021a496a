"""Numbers in cleaned answers, exact; units behind a value; and the one number that a sentence states."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache
from string import ascii_lowercase
from typing import NamedTuple, cast

from diffpo.grading.spelling import FUNCTIONS, TEXT, clean, word_set

_NAMES = (
    "cm centimeter centimetre; m meter metre; km kilometer kilometre; in inch inche; ft foot feet; yd yard; mi mile; "
    "s sec second; min minute; h hr hour; day; wk week; month; yr year; ¢ cent; $ dollar usd; € euro eur; £ gbp; ¥ "
    "yen jpy; ₹ rupee inr rs; g gram; kg kilogram; lb pound; oz ounce; degree; celsius; fahrenheit; am; pm; rad "
    "radian; l liter litre; sharp; gal gallon; mol mole; joule; kj kilojoule; watt; kw kilowatt; hz hertz; khz "
    "kilohertz; pascal; kpa kilopascal; newton; volt; nm nanometer nanometre; tonne"
)
UNITS = {name: names.split()[0] for names in _NAMES.split(";") for name in names.split()}
_BASES = "m meter metre; g gram; l liter litre; s second; mol mole; J joule; W watt; Hz hertz; Pa pascal"
UNITS |= {  # m is milli and M is mega: the one case that tells
    name: symbol + base
    for symbol, prefix in (("m", "milli"), ("M", "mega"))
    for base, *words in map(str.split, _BASES.split(";"))
    for name in (symbol + base, *(prefix + word for word in words))
}
UNITS |= dict.fromkeys(word_set("unit sq square cu cubic mph kph per each a of an"), "")
_ORDINALS = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth"
)
PARTS = {"half": 2, "halve": 2, "quarters": 4, "hundredths": 100, "thousandths": 1000}
PARTS |= {f"{ordinal}s": part for part, ordinal in enumerate(_ORDINALS.split(), 3)}
SCALES = {"ten": 10, "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
SCALES |= {"trillion": 10**12} | {name: Fraction(1, part) for name, part in PARTS.items()}
_LETTERS = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}
_SCALE = rf"\b({'|'.join(SCALES)})s?\b"
SHAPES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_MULTIPLES = word_set(
    "basis score gross grand lakh lakhs crore crores mil mn bil bn tn ppm bps doz twice max maximum minimum"
)
"""Behind a number they make another one, or a bound, of it."""
_NO_UNIT = word_set(
    "if when where for mod modulo not unless except to or and plus minus negative times over base less more below "
    "above squared cubed doubled tripled halved factorial choose from at third quarter too never cannot "
    "wrong incorrect false"
).union(FUNCTIONS, _MULTIPLES)
_NEVER_LATER = SCALES.keys() | set(ascii_lowercase)
_COIN = r"(?:US)?\\?([$€£¥₹¢])"
_WORD = r"(?:[A-Za-z]+\.?|\\?[$€£¥₹¢])(?:\s*\^\{-?[0-9]\})?"
_UNIT = re.compile(
    rf"((?:(?<=[0-9}})%]) *|(?<=\\pi) +|(?<=[0-9A-Za-z}})%]) *{TEXT})[ /]*)"
    rf"({_WORD}(?:(?: |/|-|\\cdot|{TEXT})+{_WORD})*)[ .]*$"
)


_SAME_UNITS = (("am", "sharp"), ("pm", "sharp"), ("h", "sharp"), ("lb", "£"))
"""What may be said of one value: 5:00, pounds of money."""


class Unit(NamedTuple):
    """Behind a value: the scale of a word (million, thirds), and known units with their powers in written order."""

    scale: int | Fraction = 1
    powers: tuple[tuple[str, int], ...] = ()
    rate: bool | None = None
    """Whether it is so much per something; None where either would do, as a price."""

    def contradicts(self, other: Unit) -> bool:
        """Dollars and euros, cm^2 and cm^3, km and km/h; an unknown or a missing unit contradicts none."""
        return {self.rate, other.rate} == {True, False} or any(
            mine != its and (mine[0], its[0]) not in _SAME_UNITS
            for mine, its in zip(self.powers, other.powers, strict=False)
        )

    def beside(self, other: Unit) -> Unit:
        """Cents as dollars where the other ones are dollars."""
        cents = self.powers == (("¢", 1),) and other.powers == (("$", 1),)
        return self._replace(scale=self.scale * Fraction(1, 100), powers=other.powers) if cents else self


def without_unit(text: str, reference: bool = False) -> tuple[str, Unit]:
    """A cleaned value without its unit or noun. In a `reference` a letter is a unit only if once text: not in 3m."""
    coin = re.match(rf"[-+ ]*{_COIN}", text)
    front = Unit(1, ((coin[1], 1),) if coin else ())
    found = _UNIT.search(text)
    if not found:
        return text, front
    words = re.findall(r"([A-Za-z]+|[$€£¥₹¢])\.?(?:\s*\^\{(-?[0-9])\})?", found[2])
    names = [_LETTERS.get(name, re.sub(_SCALE, r"\1", name.lower())) for name, _ in words]
    spelled = ((word, name, name.removesuffix("s")) for (word, _), name in zip(words, names, strict=True))
    first, known = names[0], [next((UNITS[word] for word in forms if word in UNITS), None) for forms in spelled]
    noun = found[1] != "" and len(first) >= 3  # 20 white hats
    letter = len(words[0][0]) == 1 or found[1] == ""
    variable = (reference and TEXT not in found[0] and letter and first.isalpha()) or found[0] == "a"  # 3m
    later = {name for name, unit in zip(names[1:], known[1:], strict=True) if unit is None}
    if variable or later & _NEVER_LATER or _NO_UNIT.intersection(names):
        return text, front
    if known[0] is None and first not in SCALES and not noun:
        return text, front
    shape = next((SHAPES[name] for name in names if name in SHAPES), 1)
    behind = tuple((unit, int(power or shape)) for unit, (_, power) in zip(known, words, strict=True) if unit)
    powers = front.powers or behind
    rate = bool(re.search(r"/|\bper\b", found[2])) if powers and powers[0][0] not in "$€£¥₹¢" else None
    return text[: found.start()].strip(), Unit(SCALES.get(first, 1), powers, rate)


_SENTENCES = re.compile(r"(?<=[.?!])\s+")
_ASKED = re.compile(
    r"\bhow many (?:(?:more|total|full|whole|extra|additional) )?((?:square |cubic )?[a-z]{3,})(?![-\w])"
    r"|\bin ((?:square |cubic )?(?:[a-z]{3,}s|feet))\b",
    re.I,
)


@lru_cache(maxsize=4096)
def asked_unit(question: str) -> Unit:
    """The known unit that the last question asks for, as in "How many hours ...?"; none where it names several."""
    asks = [sentence for sentence in _SENTENCES.split(question[-4000:]) if sentence.endswith("?")]
    names = {"".join(found) for found in _ASKED.findall(asks[-1])} if asks else set()
    units = {without_unit(f"1 {name}")[1].powers for name in names} - {()}
    return Unit(1, units.pop()) if len(units) == 1 else Unit()


_SIZES: list[dict[str, int]] = [
    {"wk": 604_800, "day": 86_400, "h": 3600, "min": 60, "m": 60, "sec": 1},
    {"yr": 12, "month": 1},
    {"km": 10**6, "m": 1000, "cm": 10, "mm": 1},
    {"mi": 63_360, "yd": 36, "ft": 12, "in": 1},
    {"kg": 10**6, "g": 1000, "mg": 1},
    {"lb": 16, "oz": 1},
    {"l": 1000, "ml": 1},
    *({coin: 100, "¢": 1} for coin in "$€"),
]
"""Units that are counted together, 2 h 30 min: how many of the smallest each is."""
_PIECE = rf"\\?[$€]?[0-9][0-9.,]*[\s{TEXT}]*[A-Za-z¢]+\.?[\s{TEXT},]*"


def same_quantity(truth: str, given: str, asked: Unit) -> bool | None:
    """Whether 2 h 30 min are 150 minutes, or 150 where minutes are `asked` for; None where neither has two units."""
    truth, given = truth.strip(f" {TEXT}"), given.strip(f" {TEXT}")
    both = [re.findall(_PIECE, text) if re.fullmatch(f"(?:{_PIECE})+", text) else [text] for text in (truth, given)]
    if max(map(len, both)) == 1:
        return None
    totals = [[_total(pieces, sizes, asked) for pieces in both] for sizes in _SIZES]
    known = [(one, two) for one, two in totals if one is not None and two is not None]
    return any(one == two for one, two in known) if known else None


def _total(pieces: list[str], sizes: dict[str, int], asked: Unit) -> Fraction | None:
    """How many of the smallest unit the pieces are together, each of a smaller unit than the one before."""
    total, last = Fraction(0), math.inf
    for piece in pieces:
        text, unit = without_unit(piece.strip(f" ,{TEXT}"))
        number, powers = read_number(text), unit.powers or asked.powers
        size = sizes.get(powers[0][0], 0) if len(powers) == 1 and powers[0][1] == 1 else 0
        if number is None or not 0 < size < last:
            return None
        total, last = total + number.value * unit.scale * size, size
    return total


class Number(NamedTuple):
    """A number that is written as one, with no arithmetic left: 5, -1.5, 3/4, 1 1/2, 2 * 10^5, 50 %."""

    value: Fraction
    percent: bool
    decimal: bool
    reduced: bool


_WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_FRACTION = re.compile(rf"\\frac\{{\s*(-?{_WHOLE})\s*\}}\{{\s*(-?{_WHOLE})\s*\}}(?![0-9.])")
_NUMBER = re.compile(
    rf"""\s*(?P<sign>[-+]?\s*(?:{_COIN})?\s*-?)\s*
    (?: (?:(?P<whole>{_WHOLE})\ +)? (?P<over>-?{_WHOLE})\s*/\s*(?P<under>-?{_WHOLE})
      | (?P<digits>{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+) (?:\\overline\{{(?P<period>[0-9]+)\}})?
        (?: (?:\s*(?:\\times|\\cdot|\*|x)\s*10\^\{{|[eE]) (?P<power>[-+]?[0-9]{{1,3}})\}}? )?
    ) \s*(?P<percent>\\%)?\s*""",
    re.VERBOSE,
)


def read_number(text: str) -> Number | None:
    """The number that all of a cleaned text without unit is."""
    power = re.fullmatch(r"\s*(-?)\s*(10\^\{-?[0-9]{1,3}\})\s*", text)
    text = rf"{power[1]}1\times{power[2]}" if power else text
    found = _NUMBER.fullmatch(_FRACTION.sub(r" \1/\2", text))
    if found is None or len(re.findall("[-+]", found["sign"])) > 1:
        return None
    if found["period"] and "." not in found["digits"]:
        return None  # a bar over whole digits is no period
    part = {name: (digits or "0").replace(",", "") for name, digits in found.groupdict().items()}
    if found["digits"]:
        value, reduced = _decimal(part["digits"].rstrip("."), part["period"], int(part["power"])), not power
    else:
        whole, over, under = int(part["whole"]), int(part["over"]), int(part["under"])
        if under == 0 or (whole and not 0 < Fraction(over, under) < 1):
            return None
        value, reduced = whole + Fraction(over, under), Fraction(over, under).denominator == abs(under)
    value = -value if "-" in found["sign"] else value
    return Number(value, bool(found["percent"]), "." in part["digits"], reduced)


def _decimal(digits: str, period: str, power: int) -> Fraction:
    """12.5, 0.1 with the period 36, 2 * 10^5, 1.5e3."""
    repeated = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(digits.partition(".")[2]))
    return (Fraction(digits) + repeated) * Fraction(10) ** power


def parse_number(text: str) -> Fraction | None:
    """The number that all of a text is, in whatever notation, without a unit; None for anything else."""
    try:
        number = read_number(clean(text))
    except ValueError:
        return None
    return None if number is None else number.value


_SCALED = re.compile(rf"\b(?:many (?:[A-Za-z]+ ){{0,3}}|(?:in|of|nearest) ){_SCALE}")
_PERCENT = re.compile(
    r"\bin percent|\b(?:what|how (?:many|much)|as an?|express\w*)\b[^.?!,;]{0,40}(?<![0-9] )\bpercent", re.I
)
_COUNTED = re.compile(
    r"\bhow (?:many|much|long|far)\b|\bwhich\b|\bas an? (?:\w+ )?(?:fraction|decimal)\b|(?:%|percent) of \\?\$?[0-9]",
    re.I,
)


def _in_percent(question: str) -> bool:
    """Whether 50 % may be 50: the question asks for percent, or speaks of it and counts nothing; or there is none."""
    speaks = not question or re.search("%|percent", question)
    return bool(speaks and (_PERCENT.search(question) or not _COUNTED.search(question)))


def same_number(truth: Number, scale: int | Fraction, given: Number, other: int | Fraction, question: str) -> bool:
    """Equal in value, whatever the notation: 50 % is a half; 2 million is 2, and 50 % is 50, where these are asked for.

    `scale` and `other` are those of the units behind the two. No question asks for percent, but for no scale.
    """
    readings = {given.value * other * Fraction(100) ** (truth.percent - given.percent)}
    if truth.percent or (given.percent and _in_percent(question) and (question or abs(truth.value) >= 1)):
        readings.add(given.value * other)
    if given.percent and not truth.percent and truth.value > 1 and _PERCENT.search(question):
        readings = {given.value * other}  # 2500 % is not the 25 that is asked for in percent
    if {SCALES[name] for name in _SCALED.findall(question)} & {scale, other}:
        readings |= {given.value, given.value * other / scale}
    return truth.value * scale in readings


_STATED = re.compile(rf"(?:[-+] ?)?(?:{_COIN} ?)?-?(?:[0-9]{{1,3}}(?:,[0-9]{{3}})+|[0-9]+)(?:\.[0-9]+)?")
_BEHIND = re.compile(r"(?: (?:square|cubic|sq|cu))?(?: (?!in\b)[A-Za-z]+(?:\^\{[0-9]\})?(?:(?:/| per )[A-Za-z]+)?)?")
"""The unit behind a number in a sentence; "5 in the box" are no inches."""
TURNED = re.compile(
    r"\b(?:third|quarter|twice|(?:doubl|tripl|halv)ed?|thrice|times|squared|cubed|(?:square|cube) of|root"
    r"|power|factorial|reciprocal|inverse|opposite|multiple|plus|minus|neg(?:ative)?|below|between|either|not|no|never"
    r"|neither|nor|except|unless|cannot|(?:all|any\w+) but|without|least|most|exceed\w*|under|over|almost|nearly"
    r"|up to|far from|at (?:best|worst|m(?:in|ax)imum)|too (?:big|small|large|little|high|low|long|short)"
    r"|(?:is|was|were|be) (?:wrong|incorrect|false))\b|n't\b"
    rf"|{_SCALE}"
    r"|\b(?:hardly|barely|scarcely|doubt\w*|one of|multiples|(?:first|last)(?= [0-9])|a (?:bit|little))\b"
    r"|\b(?:(?:than|from)(?: or equal to)?|above|beyond|within|less|double|divi\w+ by"
    r"|(?:factor|sum|complement|instead|m(?:in|ax)imum) of)\s+[-$\\0-9]"
    r"|,\s*(?:more|less|fewer|greater|higher|lower|above|up)\b",
    re.IGNORECASE,
)
"""Words that leave arithmetic to do, turn a statement round, or make it a bound."""
_UNFINISHED = re.compile(
    r"[0-9)]\s*[-+*/^!]|\\(?!\$|%)|[<>|{}\[\]]|-\s*\(|[A-Za-z]\s*\\%|[!']\s*$|(?<!['.])\b[b-z]\b"
    rf"|[a-z] [-+] (?:{_COIN} ?)?[0-9.]|\b(?:wrong|incorrect|false)\b"
)
"""Arithmetic in signs, a dash that may be a sign, letters that are no words, and words that take it back."""


def stated_number(text: str) -> tuple[Number, Unit] | None:
    """The one number that a sentence states, after its last equals sign: "She makes 9 * 2 = $18 a day" says 18 dollars.

    None where there is no word, more than one number, arithmetic left to do, or a bound instead of a value.
    """
    left, _, text = text.replace(TEXT, " ").rpartition("=")
    if re.search(r"(?<!['.])\b[0-9]*[b-z]\b", left):  # 2x = 5 apples
        return None
    # a full hour is said with a word, as every number that is read here
    text = re.sub(r"\b([0-9]{1,2})(?::00\b(?!:)|\s?o'clock\b)(\s?[ap]m\b)?", lambda t: t[1] + (t[2] or " sharp"), text)
    if not re.search(r"[A-Za-z]{2}", text) or TURNED.search(text) or _UNFINISHED.search(text) or "?" in text:
        return None
    found = list(_STATED.finditer(text))
    values = {Fraction(re.sub(r"[^-0-9.]", "", number[0])) for number in found}
    if len(values) != 1 or re.search(r"[\w.,:]#|#[\w^]|#[.,:]#|\d", _STATED.sub("#", text)):
        return None
    behind = cast(re.Match[str], _BEHIND.match(text, found[-1].end()))[0]
    if behind.strip().lower() in _MULTIPLES:
        return None
    _, unit = without_unit(found[-1][0] + behind)
    percent = text[found[-1].end() :].lstrip().startswith("\\%")
    return Number(values.pop(), percent, "." in found[-1][0], True), unit
