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
    _LEAD + r"[(\[<]?([A-Z])[)\]>]?"
    r"(?i:\s+is (?:the )?(?:(?:correct|right)(?: (?:one|option|choice|answer))?|answer)|,?\s+(?:and )?not \(?[A-Z]\)?"
    r"|\s*[-,;:]?\s*(?:because|since)\b.*)?[\s.!]*",
    re.DOTALL,
)
_WITH_TEXT = re.compile(
    _LEAD + r"\(?\s*([A-Za-z])\s*(?:(?:\):?|[.:]\s)(?=\s*$|\s*(?:[A-Za-z]{2}|[AI]\s[a-z])"
    r"|\s*\$?-?(?:[0-9]|\\[a-z])[^()A-Z]*$)|\s-\s(?=[A-Za-z]{3}|an?\s[a-z]))(.*)",
    re.DOTALL,
)
"""(C) Plane, C. 12, C - Plane."""
_SAID_OF_IT = re.compile(r"\s*(?:is|was|can|could|would|will|should|may|might|must|seems|looks|does|has)(?:not|n't)?\b")
_ANOTHER = re.compile(r"[(\s][A-Z](?:\)|[.:]\s)\s*\w")


def chosen(text: str) -> str:
    """The letter of the one option that a cleaned answer names, in lower case; "" for another answer."""
    text = text.replace(TEXT, " ").strip()
    if found := _IN_A_SENTENCE.fullmatch(text):
        return found[1].lower()
    return option(text)[0].lower()


def option(text: str) -> tuple[str, str]:
    """Letter and text of an option, "C. Plane"; ("", "") for another text, one that takes it back, and for several."""
    found = _WITH_TEXT.match(text.replace(TEXT, " ").strip())
    if found is None or _ANOTHER.search(found[2]) or (_SAID_OF_IT.match(found[2]) and TURNED.search(found[2])):
        return "", ""
    return found[1], found[2].strip()


def lists_option(question: str, letter: str) -> bool:
    """Whether a question lists options, this one among them: (A) 1 (B) 2, or A. 1 and B. 2."""
    return {letter, "A", "B"} <= set(re.findall(r"(?<![A-Za-z])([A-Z])(?:\)|[.:]\s)", question))
