r"""Spellings of final answers: one plain LaTeX for what people, keyboards and models write in many ways.

Everything is a substitution on a bounded text: nothing is parsed and nothing is computed.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LENGTH = 400
"""Characters of an answer that is read as mathematics."""
ROW = "\x02"
"""Stands for the end of a matrix row."""
TEXT = "\x03"
r"""Stands before what was \text{...}: a letter behind it is a word or a unit, no variable."""

_SIGNS = {
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\ufe63", "-"),
    **dict.fromkeys("\u00b7\u22c5\u2219\u2022\u30fb", r"\cdot "),
    **dict.fromkeys("\u2044\u2215\u00f7", "/"),
    **{
        "\u00d7": r"\times ",
        "\u2217": "*",
        "\u00b1": r"\pm ",
        "\u2213": r"\mp ",
        "\u221a": r"\sqrt ",
        "\u221b": r"\sqrt[3] ",
    },
    **{"\u2248": "=", "\u2260": r"\ne ", "\u2264": r"\le ", "\u2265": r"\ge ", "\u2a7d": r"\le ", "\u2a7e": r"\ge "},
    **{"\u221e": r"\infty ", "\u222a": r"\cup ", "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}"},
    **{
        "\u00b0": r"^\circ ",
        "\u2032": "'",
        "\u2019": "'",
        "\u3002": ".",
        "\uff61": ".",
        "\u3001": ",",
        "\u2026": r"\ldots ",
    },
    **{"\u2223": "|", "\u2220": r"\angle ", "\u27e8": "(", "\u27e9": ")", "\u2216": r"\setminus "},
}
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau "
    "upsilon phi chi psi omega"
)
_SIGNS |= {chr(0x3B1 + index): f"\\{name} " for index, name in enumerate(_GREEK.split())}
_SIGNS |= {chr(0x391 + index): f"\\{name.capitalize()} " for index, name in enumerate(_GREEK.split())}
_HIGH, _LOW = "\u00b2\u00b3\u00b9\u2070-\u207f", "\u2080-\u208e"
FUNCTIONS = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp"]
)
_COMMANDS = "|".join((*sorted(FUNCTIONS), "sqrt", "infty", "pi", "theta", "alpha", "beta", "phi"))
_FONT = r"\\(?:math(?:bf|rm|it|sf|tt|normal)|boldsymbol|bm|underline|vec)\s*\{([^{}]*)\}"
_WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|mbox|operatorname\*?)\s*\{([^{}]*)\}"
_ARGUMENT = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_ONE = rf"({_ARGUMENT}|\\[A-Za-z]+|[0-9A-Za-z])"

_CLEAN = [
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        (r"\\(?:boxed|fbox)\s*(?=\{)", ""),
        (r"(?<!\\)\$\$?(.*?)(?<!\\)\$\$?", r" \1 "),  # mathematics between dollars; another dollar is money
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])\.?", ""),
        (r"(?<=[0-9])(?:,\s*\\!\s*|\{,\})(?=[0-9])", ","),  # 10,\!080 and 10{,}080
        (r"\\!", ""),
        (r"(?<=[0-9])(?:\\[, ]|\s|~)(?=[0-9]{3}(?![0-9]))", ","),  # 10\,080 and 10 080
        (r"\\[,;:> ]|~|\\q?quad(?![A-Za-z])|[\n\t]", " "),
        (r"\\(?:mathbb|Bbb)\s*\{?\s*R\s*\}?|\\R(?![A-Za-z])", r"(-\\infty,\\infty)"),
        (r"\\text\{\s*per\s*\}", "/"),
        (
            r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}",
            r"\\text{\1/\2}",
        ),  # miles/hours
        *[(_FONT, r"\1"), (_WORDS, rf" {TEXT}\1 ")] * 2,
        (r"\\?\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?(?:\s*[CF]\b)?|\\degree(?![A-Za-z])", " "),
        (r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])", "^"),
        (r"\*\*|`|\\[()\[\]](?!\{)|(?<![A-Za-z0-9])_+(?=[0-9])|(?<=[0-9])_+$", " "),
        (r"\\(?:approx|simeq|thickapprox|doteq)(?![A-Za-z])|~=|==", "="),
        (rf"(?<=[0-9])\s*\^?\s*\{{?\s*{TEXT}?\s*(?:st|nd|rd|th)\s*\}}{{0,2}}(?![A-Za-z}}])", " "),  # 12th
        (r"(?<=[\])])\s*U\s*(?=[\[(])", r"\\cup "),
        (r"\\[dtc]frac", r"\\frac"),
        (r"\\bar(?![A-Za-z])", r"\\overline"),
        (rf"(?<![A-Za-z\\{{]){TEXT}?\s*(?:or|and)(?![A-Za-z}}])|\\(?:vee|lor|wedge|land)(?![A-Za-z])", " , "),
        (r",(?:\s*,)+", ","),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|not\s*=)(?![A-Za-z])|!=|\\not\s*=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\[lr]?[vV]ert(?![A-Za-z])|\\\|", "|"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])", r"\\{\\}"),
        (r"\\[lc]?dots[cbmio]?(?![A-Za-z])|\.{3,}", r"\\ldots "),
        (
            r"[\[(]?\s*\\begin\{(?:[pbB]|small)?(?:matrix|array)\}(?:\{[clr|\s]*\})?(.*?)\\end\{(?:[pbB]|small)?(?:matrix|array)\}\s*[\])]?",
            r"\\begin{pmatrix}\1\\end{pmatrix}",
        ),
        (r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty "),
        (rf"(?<![A-Za-z\\])({_COMMANDS})(?![A-Za-z])", r"\\\1 "),
        (r"(?<![A-Za-z])(?:minus|negative)\s+(?=[0-9\\.$A-Za-z])", "-"),
        (r"(?<![A-Za-z])(?:percent|pct)(?![A-Za-z])|(?<=[0-9])\s*%", r"\\%"),
        (r"\\([_^])", r"\1"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"([_^])\s*(-?[0-9]+|\\?[A-Za-z]+(?=\W|$)(?<=[_^ ][A-Za-z]))", r"\1{\2}"),  # x^12 as it is meant
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (rf"\\sqrt\s*(\[[^\[\]]*\])?\s*{_ONE}", lambda m: rf"\sqrt{m[1] or ''}{_braced(m[2])}"),
        (rf"\\(frac|binom)\s*{_ONE}\s*{_ONE}", lambda m: rf"\{m[1]}{_braced(m[2])}{_braced(m[3])}"),
        (r"[.,;:\s]+$|^[=:\s]+", ""),
        (r"(?<=\\log)_\{10\}", ""),
        (r"^\{([^{}]*)\}$", r"\1"),
    )
]


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"


def plain_signs(text: str) -> str:
    """`text` with the signs, digits and fractions of Unicode in ASCII; what is invisible is left out."""
    text = re.sub(f"[{_HIGH}]+", lambda run: "^{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = re.sub(f"[{_LOW}]+", lambda run: "_{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    return text if text.isascii() else "".join(map(_plain_sign, text))


def _plain_sign(char: str) -> str:
    if char.isascii():
        return char
    if char in _SIGNS:
        return _SIGNS[char]
    if unicodedata.decimal(char, None) is not None:
        return str(unicodedata.decimal(char))
    if unicodedata.category(char) == "Cf":
        return ""
    same = unicodedata.normalize("NFKC", char)
    over, slash, under = same.partition("\u2044")
    return rf"\frac{{{over}}}{{{under}}}" if slash and under else same


def clean(text: str) -> str:
    """The answer without fonts, sizes, spacing, degrees and outer punctuation, in ASCII. ValueError if too long."""
    if len(text := text.strip()) > MAX_LENGTH:
        raise ValueError(f"an answer of {len(text)} characters is too long to be read")
    text = plain_signs(text)
    text = re.sub(r"\\\\(?:\[[^\]]*\])?", f" {ROW} " if r"\begin" in text else r"\\", text)
    for pattern, replacement in _CLEAN:
        text = pattern.sub(replacement, text)
    return _digits(text.strip())[: 4 * MAX_LENGTH]


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: value for value, word in enumerate(_ONES.split())}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_RUN = re.compile(
    rf"(?<![A-Za-z])(?:{'|'.join(NUMBER_WORDS)})(?:[\s-]+(?:{'|'.join(NUMBER_WORDS)}|hundred|thousand))*(?![A-Za-z-])",
    re.I,
)


def _digits(text: str) -> str:
    """A text without digits with the number that it spells: "twenty-five apples" is "25 apples"."""
    runs = list(_RUN.finditer(text)) if not re.search(r"[0-9]", text) else []
    runs = [run for run in runs if run[0].lower() != "one" or run.start() == 0]
    if len(runs) != 1 or (value := _spelled(runs[0][0].lower())) is None:
        return text
    return text[: runs[0].start()] + str(value) + text[runs[0].end() :]


def _spelled(run: str) -> int | None:
    total = part = 0
    for word in re.findall("[a-z]+", run):
        if word in ("hundred", "thousand"):
            scale = {"hundred": 100, "thousand": 1000}[word]
            total, part = (total + part * scale, 0) if scale == 1000 else (total, part * scale)
        elif (part % 100 and (NUMBER_WORDS[word] > 9 or part % 10)) or (total and part >= 1000):
            return None
        else:
            part += NUMBER_WORDS[word]
    return total + part
