r"""Spellings of final answers: one plain LaTeX for what people, keyboards and models write in many ways.

Everything is a substitution on a bounded text: nothing is parsed and nothing is computed.
"""

from __future__ import annotations

import html
import re
import unicodedata

MAX_LENGTH = 400
"""Characters of an answer that is read as mathematics."""
ROW = "\x02"
"""Stands for the end of a matrix row."""
TEXT = "\x03"
r"""Stands before what was \text{...}: a letter behind it is a word or a unit, no variable."""


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


FUNCTIONS = word_set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp")


def _targets(table: str) -> dict[str, str]:
    """From each word of a table to the first one between its semicolons."""
    return {word: target for target, *words in map(str.split, table.split(" ; ")) for word in words}


_SIGNS = _targets(
    r"- − ‐ ‑ ‒ – ﹣ ; \cdot · ⋅ ∙ • ・ ; / ⁄ ∕ ÷ ; \times × ✕ ✖ ⨯ ; * ∗ ; \pm ± ; \mp ∓ ; \sqrt √ ; \sqrt[3] ∛ ; = ≈ "
    r"; \ne ≠ ; \equiv ≡ ; \le ≤ ⩽ ; \ge ≥ ⩾ ; \infty ∞ ; \cup ∪ ; \in ∈ ; \emptyset ∅ ; \lor ∨ ; \land ∧ "
    r"; \mathbb{R} ℝ ; ^\circ ° º ; ' ′ ’ ‘ ; ` “ ” „ « » 「 」 ; \cap ∩ ; \to → "
    r"; . 。 ｡ ; , 、 ; \ldots … ; | ∣ ; \angle ∠ ; ( ⟨ ; ) ⟩ ; \setminus ∖ ; \neg ¬"
)
_HIGH, _LOW = "[\u00b2\u00b3\u00b9\u2070-\u207f]+", "[\u2080-\u208e]+"

_COMMANDS = _targets(
    r"\frac \dfrac \tfrac \cfrac ; \overline \bar ; \ldots \dots \cdots \dotsc ; \le \leq \leqslant <= =< "
    r"; \ge \geq \geqslant >= ; \ne \neq != ; < \lt ; > \gt ; = == \approx \simeq \thickapprox \doteq "
    r"; , \vee \lor ; | \vert \lvert \rvert \Vert \lVert \rVert \| ; \{ \lbrace ; \} \rbrace ; ( \langle "
    r"; ) \rangle ; \{\} \emptyset \varnothing ; (-\infty,\infty) \R ; ^\circ \degree ; \, \quad \qquad "
    r"; \to \rightarrow \longrightarrow ; \implies \Rightarrow \Longrightarrow ; \iff \Leftrightarrow ; \neg \lnot"
)
_NESTED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
_FONT = rf"\\(?:math(?:bf|rm|it|sf|tt|normal|frak)|boldsymbol|bm|ensuremath|underline|vec)\s*{_NESTED}"
_WORDS = r"\\(?:text(?:bf|it|rm|sf|tt|sc|sl|up|md|normal)?|emph|mbox|operatorname\*?)\s*\{([^{}]*)\}"
_STYLES = "displaystyle|textstyle|limits|tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|rm|sf|tt"
_BARE = rf"{'|'.join(sorted(FUNCTIONS))}|sqrt|infty|pi|theta|alpha|beta|phi"
_DEGREE = r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![ABDEG-Za-z]|[CF][A-Za-z]))"
_ANGLES = "sin|cos|tan|cot|sec|csc"
_IN_DEGREES = rf"(-?[0-9]+(?:\.[0-9]+)?)\s*{_DEGREE}"
_TURNED = {">": "<", "<": ">", r"\ge": r"\le", r"\le": r"\ge"}
_SIDE = r"((?:[^<>=,\\]|\\(?![lg]e(?![A-Za-z])))*)"
_BOUND = rf"{_SIDE}([<>]|\\[lg]e(?![A-Za-z])){_SIDE}"
_MATRIX = r"\{(?:[pbB]|small)?(?:matrix|array)\}"
_SYSTEM = r"\\begin\{(align(?:ed)?|cases|equation|gather(?:ed)?|split|eqnarray)(\*?)\}(.*?)\\end\{\1\2\}"
_ONE = r"(\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\\[A-Za-z]+|[0-9A-Za-z])"
"""One argument of a command: in braces, a command, or a single sign."""


_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBERS = {word: value for value, word in enumerate((_ONES + " eighteen nineteen").split())}
_NUMBERS |= {word: 10 * value for value, word in enumerate(_TENS.split(), 2)}
_ANY = "|".join(_NUMBERS)
_UNDER = {"half": 2, "third": 3, "quarter": 4, "fourth": 4}


def _in_digits(run: re.Match[str]) -> str:
    """A run of number words in digits, but for "one" within a text, and for what repeats a number: 5 (five)."""
    before, after = run.string[: run.start()].strip(f"{TEXT} "), run.string[run.end() :].strip()
    value = _spelled(re.findall("[a-z]+", run[0].lower()))
    repeats = re.search(rf"(?<![0-9.,]){value} ?\($", before) or after.startswith(f"({value})")
    return run[0] if value is None or repeats or (run[0].lower() == "one" and before and after) else str(value)


def _mixed(found: re.Match[str]) -> str:
    """Two and a half: 2 1/2."""
    return f"{found[1]} {_NUMBERS.get(found[2].lower(), 1)}/{_UNDER[found[3].lower()]}"


def _in_radians(found: re.Match[str]) -> str:
    r"""\sin(20^\circ): \sin(20\frac{\pi}{180})."""
    function, power, *degrees = found.groups()
    return rf"\{function}{power or ''}({next(filter(None, degrees))}\frac{{\pi}}{{180}})"


def _in_points(found: re.Match[str]) -> str:
    """1.234,56: 1234.56."""
    return f"{found[1].replace('.', '')}.{found[2]}"


def _listed(found: re.Match[str]) -> str:
    """The rows of a system as a list; of something else, as a function by cases, the text as it is."""
    text = re.sub(r"&+\s*(?==)|(?<==)\s*&+", "", found[3])
    rows = [row for row in text.split(ROW) if row.strip()]
    return found[0] if "&" in text or not all("=" in row for row in rows) else ", ".join(rows)


def _between(found: re.Match[str]) -> str:
    """Bounds of one letter from either side, x > 2 and x < 5: 2 < x < 5. Others stay a list."""
    bounds: dict[bool, tuple[str, ...]] = {}
    sides = (part.strip(f" {TEXT}") for part in found.groups())
    for left, sign, right in zip(*[sides] * 3, strict=True):
        if not re.fullmatch("[A-Za-z]", left):
            left, sign, right = right, _TURNED[sign], left
        bounds[sign in (">", r"\ge")] = left, sign, right
    if len(bounds) < 2 or bounds[True][0] != bounds[False][0]:
        return found[0]
    (name, sign, low), above = bounds[True], bounds[False]
    return f"{low} {_TURNED[sign]} {name} {above[1]} {above[2]}"


def _spelled(words: list[str]) -> int | None:
    """The number that words spell; None for "five six"."""
    total = part = 0
    for word in words:
        if word == "hundred":
            part *= 100
        elif word == "thousand":
            total, part = part * 1000, 0
        elif part % 100 and (_NUMBERS[word] > 9 or part % 10):
            return None
        else:
            part += _NUMBERS[word]
    return total + part


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"


def _command(found: re.Match[str]) -> str:
    """The one name of a command, or of a relation in ASCII."""
    return _COMMANDS.get(found[0], found[0]) + " " * (found[0][0] != "\\")


_RULES = [
    (r"\\(?:boxed|fbox)\s*(?=\{)", ""),  # a box in the answer
    (
        r"~~.*?~~|\\(?:[bx]?cancel|sout|st|h?phantom|[hv]space\*?|tag|label)\s*\{[^{}]*\}",
        " ",
    ),  # struck out, or no part of it
    (r"```[a-z]*\n|^(?:<[a-z]{1,6}>\s*)+|<br\s*/?>\s*$", " "),  # fences, marks of HTML around it
    (r"(^|[\s(])~(?=[A-Za-z](?![A-Za-z])|\()", r"\1\\neg "),  # ~p
    (r"\^\s*\{?((?:\s*\\prime(?![a-z]))+)\s*\}?", lambda found: "'" * found[1].count("p")),  # f^{\prime}
    (
        r"\\left\s*\\\{\s*\\begin\{array\}\{[clr|\s]*\}(.*?)\\end\{array\}\s*\\right\s*\.",
        r"\\begin{cases}\1\\end{cases}",  # a brace on the left
    ),
    (_SYSTEM, _listed),  # a system of equations, line by line
    (rf"(?:\n|{ROW}|\\q?quad(?![a-z])|\\\\)\s*(?=(?:[A-Za-z]|\\[a-z]+)(?:_\{{?\w\}}?)?\s*=)", ", "),
    (r"(?<!\\)\$\$?(.*?)(?<!\\)\$\$?", r" \1 "),  # mathematics between dollars; another dollar is money
    (rf"^\s*\{{\s*\\(?:{_STYLES})(?![A-Za-z])", r"\\mathrm{"),  # {\bf \frac12}: a font of all of it
    (rf"\\(?:left|right|[bB]igg?[lrm]?|{_STYLES})(?![A-Za-z])\.?", ""),  # sizes, and fonts of all that follows
    (r"\\(?:text)?color(?:box)?\s*\{\w*\}", ""),  # colours
    (r"\\vec\s*(?=\{\s*[A-Za-z]\s*[A-Za-z])", r"\\overrightarrow"),  # from A to B, not from B to A
    (r"\\(?:[A-Za-z]+|\|)|[<>!=]=|=<", _command),  # commands that mean the same
    (r"\\(?:land|wedge)(?![A-Za-z])", " and "),  # of bounds; else it makes a list
    (r"\{\s*([^{}]*?)\s*\\choose\s*([^{}]*?)\s*\}", r"\\binom{\1}{\2}"),  # n over k in plain TeX
    (r"\\(sin|cos|tan)\s*\^\s*\{\s*-\s*1\s*\}", r"\\arc\1 "),  # an inverse function
    (r"\\log\s*_\s*\{?\s*e\b\s*\}?", r"\\ln "),
    (r"\\hat\s*\{?\s*\\?([ijk])(?:math)?(?![A-Za-z])\s*\}?", r"\1"),  # unit vectors
    (r"\\not\s*=", r"\\ne "),  # a relation struck through
    (r"(?<=[0-9])(?:,\s*\\!\s*|\{,\})(?=[0-9])", ","),  # 10,\!080 and 10{,}080
    (r"\{\s*([-+])\s*\}", r"\1"),  # {-}5
    (r"\+\s*/\s*-", r"\\pm "),  # +/- 5
    (r"(?<![\w.,])([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]{1,2})(?![\w.,])", _in_points),  # 1.234,56
    (r"\\!", ""),  # negative space
    (r"(?<=[0-9])(?:\\[, ]| |~)(?=[0-9]{3}(?![0-9]))", ","),  # 10\,080 and 10 080
    (
        r"(?<![\w.,'])[0-9]{1,3}(?:(?:['_][0-9]{3})+|(?:\.[0-9]{3}){2,})(?![\w.,']*[0-9])",
        lambda found: re.sub("['_.]", ",", found[0]),  # 10'080, 10_080 and 1.010.080
    ),
    (r"\\[,;:> ]|[~\n\t]", " "),  # spaces
    (r"\\(?:mathbb|Bbb)\s*\{?\s*R\s*\}?", r"(-\\infty,\\infty)"),  # the real line
    (r"\\frac\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}\s*\{\s*\\text\s*\{([^{}]*)\}\s*\}", r"\\text{\1/\2}"),  # miles/hour
    *[(_WORDS, rf" {TEXT}\1 "), (_FONT, r"\1")] * 2,  # fonts, which nest
    (rf"[(\s{TEXT}]*(?:\\[pb]?mod|(?<![A-Za-z])mod)[\s{TEXT}]*\{{?\s*(\w+)\s*\}}?[\s)]*", r"\\pmod{\1}"),
    (rf"(?i)^[\s{TEXT}]*all real(?: number)?s[\s.]*$", r"(-\\infty,\\infty)"),
    (rf"(?i)^[\s{TEXT}]*(?:there (?:is|are) )?(?:no solutions?|(?:the )?empty set)[\s.]*$", r"\\{\\}"),
    (rf"^[\s{TEXT}]*DNE[\s.]*$", "does not exist"),
    (
        rf"(?<![A-Za-z])\\?({_ANGLES})\s*(\^\s*(?:[0-9]|\{{[0-9]\}}))?\s*"
        rf"(?:{_IN_DEGREES}|\(\s*{_IN_DEGREES}\s*\)|\{{\s*{_IN_DEGREES}\s*\}})",
        _in_radians,  # \sin 20^\circ is not \sin 20
    ),
    (rf"^([^\\]*[0-9])\s*{_DEGREE}\s*$", rf"\1 {TEXT}degrees"),  # 30 degrees are not 30 radians
    (rf"^([^\\]*[0-9])\s*{_DEGREE}[\s{TEXT}]*C[\s.]*$", rf"\1 {TEXT}degrees celsius"),
    (rf"^([^\\]*[0-9])\s*{_DEGREE}[\s{TEXT}]*F[\s.]*$", rf"\1 {TEXT}degrees fahrenheit"),
    (r"(?i)(?<=[0-9])\s*(celsius|fahrenheit)", r" degrees \1"),
    (rf"\\?{_DEGREE}(?:[\s{TEXT}]*[CF]\b)?", " "),  # other degrees
    (r"(?<=[0-9A-Za-z)}])\*\*(?=[0-9A-Za-z({-])", "^"),  # Python's power
    (r"\*\*|[`\"]|\\[()\[\]](?!\{)|(?<![A-Za-z0-9)])_+(?=[0-9])|(?<=[0-9])_+$", " "),  # Markdown's bold, code; quotes
    (rf"(?<=[0-9])\s*\^?\s*\{{?\s*{TEXT}?\s*(?:st|nd|rd|th)\s*\}}{{0,2}}(?![A-Za-z}}])", " "),  # 12th
    (
        r"(?:((?:^|(?<=[\s=,;pU(]))\]|(?<!sqrt)\[))([^\[\],;]+)[,;]([^\[\],;]+)(\]|(?<!sqrt)\[(?=\s*(?:$|[\\,;U).}])))",
        lambda found: f"{'(['[found[1] == '[']}{found[2]},{found[3]}{')]'[found[4] == ']']}",  # ]1,2[
    ),
    (r"(?<=[\])])\s*U\s*(?=[\[(])", r"\\cup "),  # a union that is typed
    (r"(?i)(?<![A-Za-z])(hundred|thousand)\s+and\s+(?=[a-z])", r"\1 "),  # one hundred and five
    (rf"(?i)\b([0-9]+|{_ANY})\s+and\s+(a|one|two|three)[\s-]+({'|'.join(_UNDER)})s?\b", _mixed),  # two and a half
    (rf"^{_BOUND}\s{TEXT}?\s*and\s{_BOUND}$", _between),  # x > 2 and x < 5
    (rf"(?<![A-Za-z\\{{]){TEXT}?\s*(?:or|and)(?![A-Za-z}}])", " , "),  # "3 and 5"
    (r",(?:\s*,)+", ","),  # "3, 5, and 7"
    (
        rf"^[\s{TEXT}]*(?i:(?:the )?(?:(?:final|correct|right) )?answer(?: is\b|\s*[:=]))[\s:={TEXT}]*",
        "",
    ),  # the answer is
    (r"(?i)(?<=[a-z])-(?=[a-z]+(?:lves|rters|rds|ths)(?![a-z]))", " "),  # two-thirds
    (
        rf"(?i)^([\s{TEXT}]*(?:minus |negative )?)(?:an? |one[ -]|(?=half))"
        r"(half|third|quarter|[a-z]+th|dozen|hundred|thousand|\w+illion)\s*$",
        r"\g<1>1 \2s",  # a third, half, a dozen
    ),
    (rf"(?i)(?<![A-Za-z])(?:{_ANY})(?:[\s-]+(?:{_ANY}|hundred|thousand))*(?![A-Za-z-])", _in_digits),  # twenty-five
    (r"(?<=[0-9])\s+point\s+(?=[0-9]+(?![0-9]))", "."),  # five point five
    (rf"(?<=[0-9])\)?[\s_{{(]*{TEXT}?\s*(?:in )?base[\s-]+([0-9]+)[\s)}}]*", r"_{\1}"),  # 11 in base 2
    (r"\.{3,}", r"\\ldots "),  # dots that are typed
    (
        rf"[\[(]?\s*\\begin{_MATRIX}(?:\{{[clr|\s]*\}})?(.*?)\\end{_MATRIX}\s*[\])]?",  # matrices in any brackets
        r"\\begin{pmatrix}\1\\end{pmatrix}",
    ),
    (r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),  # a word for the sign
    (r"(?<![A-Za-z\\])sqrt\s*([0-9]+)", r"\\sqrt{\1}"),  # sqrt 19
    (r"(?<=[0-9])\s*secs?[\s.]*$", " seconds"),  # no secant
    (rf"(?<![A-Za-z\\])({_BARE})(?![A-Za-z])", r"\\\1 "),  # sin x without its backslash
    (r"(?<![A-Za-z])(?i:minus|negative)\s+(?=[0-9\\.$]|[A-Za-z](?![A-Za-z]))", "-"),  # signs in words
    (r"(?<![A-Za-z])(?:per ?cent|pct)(?![A-Za-z])|(?<=[0-9])\s*%", r"\\%"),  # percent
    (r"(?i)(?<=[0-9 ])([ap])\.\s?m\b\.?", r"\1m"),  # 3:30 p.m.
    (rf"(?i)(?<![0-9:])([0-9]{{1,2}}):00(?=[\s{TEXT}]*[ap]m\b)", r"\1"),  # 8:00 am
    (r"\\([_^])", r"\1"),  # escaped for nothing
    (r"\^\s*\(([^()]*)\)", r"^{\1}"),  # x^(12)
    (r"([_^])\s*(-?[0-9]+|\\?[A-Za-z]+(?=\W|$)(?<=[_^ ][A-Za-z]))", r"\1{\2}"),  # x^12 as it is meant
    (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),  # sqrt(2)
    (r"(?<![A-Za-z0-9^_)}])\(([0-9]+)\)(?=\s*/)|(?<=/)\s*\(([0-9]+)\)(?![A-Za-z0-9^(])", r"\1\2"),  # (3)/(4)
    (rf"\\sqrt\s*(\[[^\[\]]*\])?\s*{_ONE}", lambda found: rf"\sqrt{found[1] or ''}{_braced(found[2])}"),  # \sqrt2
    (r"\\overline\s*([0-9])", r"\\overline{\1}"),  # 0.\bar6
    (rf"\\(frac|binom)\s*{_ONE}\s*{_ONE}", lambda found: rf"\{found[1]}{_braced(found[2])}{_braced(found[3])}"),
    (r"(?:(?<=\w)\s+times(?: as m\w+)?)?[.,;:\s\\]*$|^[=:#\s]+", ""),  # punctuation around, and "5 times"
    (r"(?<=\\log)_\{10\}", ""),  # the base that goes without saying
    (r"^[{*']([^{}*']*)[}*']$", r"\1"),  # braces, Markdown's stars or quotes around all
    (rf"^\s*{TEXT}\s*(?=[-+]?[0-9])", ""),  # a number in \text
    (r"\+\s*(?=\\infty)", ""),  # +\infty
]
"""In this order: a pattern, its replacement, and what it is for."""
_COMPILED = [(re.compile(pattern, re.DOTALL), replacement) for pattern, replacement in _RULES]


def clean(text: str) -> str:
    """The answer without fonts, sizes, spacing, degrees and outer punctuation, in ASCII. ValueError if too long."""
    if len(text := text.strip()) > MAX_LENGTH:
        raise ValueError(f"an answer of {len(text)} characters is too long to be read")
    text = plain_signs(text)
    text = re.sub(r"\\\\(?:\[[^\]]*\])?", f" {ROW} " if r"\begin" in text else r"\\", text)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return text.strip()[: 4 * MAX_LENGTH]


def plain_signs(text: str) -> str:
    """`text` with the signs, digits and fractions of Unicode in ASCII; what is invisible is left out."""
    text = re.sub(r"&#?\w{2,8};", lambda sign: html.unescape(sign[0]), text)
    text = re.sub(_HIGH, lambda run: "^{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    text = re.sub(r"(?<=[√∛])\s*([0-9]+)", r"{\1}", text)
    text = re.sub(_LOW, lambda run: "_{" + unicodedata.normalize("NFKC", run[0]) + "}", text)
    return text if text.isascii() else "".join(map(_plain_sign, text))


def _plain_sign(char: str) -> str:
    if char.isascii():
        return char
    if char in _SIGNS:
        return _SIGNS[char] + " " * ("\\" in _SIGNS[char])
    if greek := re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(char, "")):
        name = greek[2].replace("LAMDA", "LAMBDA")
        return f"\\{name.lower() if greek[1] == 'SMALL' else name.capitalize()} "
    if unicodedata.decimal(char, None) is not None:
        return str(unicodedata.decimal(char))
    if unicodedata.category(char) in ("Cf", "Me") or char in "\ufe0f✓✔✅":
        return ""  # what is not seen, the frames of keys, ticks
    same = unicodedata.normalize("NFKC", char)
    over, slash, under = same.partition("\u2044")
    if slash and under:
        return rf"\frac{{{over}}}{{{under}}}"
    return char if same == char else plain_signs(same)
