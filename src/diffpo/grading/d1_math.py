"""d1's rule for equal answers in MATH-500: equal strings after clean-up, as Hendrycks et al. published it
(arXiv 2103.03874). Written from its definition; no algebra is done."""

from __future__ import annotations

import re

_DROPPED = (r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$")
"""Sizes, degrees, dollars."""


def equivalent(answer: str, truth: str) -> bool:
    """Whether both clean up to the same string; if either trips the clean-up, whether they are the same as they are."""
    try:
        return clean_up(answer) == clean_up(truth)
    except ValueError:
        return answer == truth


def clean_up(text: str) -> str:
    r"""The published clean-up, in its order: "\dfrac12" and "1/2" and "0.5" become "\frac{1}{2}", "x=5" becomes "5".

    ValueError where the published one fails: two units, a bare \frac or \sqrt at the end, a slash between non-integers.
    """
    text = text.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    for command in _DROPPED:
        text = text.replace(command, "")
    value, *units = text.split(r"\text{ ")
    if len(units) > 1:
        raise ValueError("two units")
    text = value.replace(r"\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    return _slash(r"\frac{1}{2}" if text == "0.5" else text)


def _braced_roots(text: str) -> str:
    r"""\sqrt3 to \sqrt{3}."""
    if re.search(r"\\sqrt(?:\\sqrt|\Z)", text):
        raise ValueError("a root of nothing")
    return re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text)


def _braced_fractions(text: str) -> str:
    r"""\frac12 to \frac{1}{2} and \frac1{72} to \frac{1}{72}; all stays as it is if one has a single character."""
    if short := re.search(r"\\frac([^{]?)(?=\\frac|\Z)", text):
        if not short[1]:
            raise ValueError("a fraction of nothing")
        return text
    text = re.sub(r"\\frac([^{])(?=\{)", r"\\frac{\1}", text)
    return re.sub(r"\\frac([^{])(.)", r"\\frac{\1}{\2}", text)


def _slash(text: str) -> str:
    r"""3/4 to \frac{3}{4}; ValueError if the sides are not integers."""
    sides = text.split("/")
    if len(sides) != 2:
        return text
    over, under = map(int, sides)
    return rf"\frac{{{over}}}{{{under}}}" if text == f"{over}/{under}" else text
