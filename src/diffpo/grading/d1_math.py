"""d1's rule for equal answers in MATH-500: equal strings after clean-up, as Hendrycks et al. published it
(arXiv 2103.03874). Written from its definition; no algebra is done."""

from __future__ import annotations

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
    head, *roots = text.split(r"\sqrt")
    if "" in roots:
        raise ValueError("a root of nothing")
    return head + "".join(r"\sqrt" + (root if root[0] == "{" else f"{{{root[0]}}}{root[1:]}") for root in roots)


def _braced_fractions(text: str) -> str:
    r"""\frac12 to \frac{1}{2} and \frac1{72} to \frac{1}{72}; all stays as it is if one has a single character."""
    head, *fractions = text.split(r"\frac")
    braced = []
    for fraction in fractions:
        if not fraction:
            raise ValueError("a fraction of nothing")
        if fraction[0] != "{":
            if len(fraction) < 2:
                return text
            over, under, rest = fraction[0], fraction[1], fraction[2:]
            fraction = f"{{{over}}}" + (under + rest if under == "{" else f"{{{under}}}{rest}")
        braced.append(r"\frac" + fraction)
    return head + "".join(braced)


def _slash(text: str) -> str:
    r"""3/4 to \frac{3}{4}; ValueError if the sides are not integers."""
    sides = text.split("/")
    if len(sides) != 2:
        return text
    over, under = map(int, sides)
    return rf"\frac{{{over}}}{{{under}}}" if text == f"{over}/{under}" else text
