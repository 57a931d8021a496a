r"""Options of a multiple choice: which one an answer names, (C), C. Plane or "The correct option is C"."""

from __future__ import annotations

import re

from diffpo.grading.numbers import TURNED
from diffpo.grading.spelling import TEXT

_LEAD = (
    r"(?i:(?:(?:so|thus|hence|therefore),? )?(?:i think )?(?:it(?: is|'s) )?(?:the |my )?"
    r"(?:(?:correct|right|best|final) )?(?:option|choice|answer)?(?: is)?:?"
    r"|i(?:'d| would| will)? (?:choose|pick|select|go with))?\s*"
)
_IN_A_SENTENCE = re.compile(
    _LEAD + r"(?:\(?([A-Z])\)?|\[([A-Z])\]|<([A-Z])>)"
    r"(?i:\s+is (?:the )?(?:(?:correct|right)(?: (?:one|option|choice|answer))?|answer)|,?\s+(?:and )?not \(?[A-Z]\)?"
    r"|\s*[-,;:]?\s*(?:because|since)\b.*)?[\s.]*",
    re.DOTALL,
)
_WITH_TEXT = re.compile(
    _LEAD + r"\(?\s*([A-Za-z])\s*(?:(?:\):?|[.:]\s)(?=\s*$|\s*(?:[A-Za-z]{2}|[AI]\s[a-z])"
    r"|\s*\$?-?(?:[0-9]|\\[a-z])[^()A-Z]*$)|\s-\s(?=[A-Za-z]{3}|an?\s[a-z]))(.*)",
    re.DOTALL,
)
"""(C) Plane, C. 12, C - Plane."""
_ANOTHER = re.compile(r"[(\s][A-Z](?:\)|[.:]\s)\s*\w")
_REASON = re.compile(r",?\s(?:because|since)\b")


def chosen(text: str, question: str) -> str:
    """The letter of the one option that a cleaned answer names, in lower case; "" for another answer."""
    text = text.replace(TEXT, " ").strip()
    if found := _IN_A_SENTENCE.fullmatch(text):
        return (found[1] or found[2] or found[3]).lower()
    letter, said = option(text)
    said = _REASON.split(said)[0].strip(" .")
    return "" if TURNED.search(said) and said.lower() not in question.lower() else letter.lower()


def option(text: str) -> tuple[str, str]:
    """Letter and text of an option, "C. Plane"; ("", "") for another text, and for several."""
    found = _WITH_TEXT.match(text.replace(TEXT, " ").strip())
    return ("", "") if found is None or _ANOTHER.search(found[2]) else (found[1], found[2].strip())


def lists_option(question: str, letter: str) -> bool:
    """Whether a question lists options, this one among them: (A) 1 (B) 2, or A. 1 and B. 2."""
    return {letter, "A", "B"} <= set(re.findall(r"(?<![A-Za-z])([A-Z])(?:\)|[.:]\s)", question))
