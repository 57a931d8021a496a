r"""What a cleaned answer is made of: lists and their items, names and values, the sets of relations, matrices."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import product
from typing import NamedTuple

from diffpo.grading.numbers import TURNED, read_number
from diffpo.grading.spelling import FUNCTIONS, ROW, TEXT, word_set

_MARK = re.compile(r"\\(?:begin|end)\{[A-Za-z]+\*?\}|\\[{}]|[()\[\]{}]|\\[A-Za-z]+|.", re.DOTALL)
_OPEN = word_set(r"\{ ( [ {")
_CLOSE = word_set(r"\} ) ] }")
VARIABLE = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\{?[\w,]+\}?)?(?:\([a-z]\))?"
_WORKED_OUT = FUNCTIONS | word_set("frac sqrt pi binom cdot times pm mp sum int lfloor lceil le ge ne in")


def _deeper(mark: str) -> int:
    """By how much a mark nests: 1 for what opens, -1 for what closes."""
    return (mark in _OPEN or mark.startswith(r"\begin{")) - (mark in _CLOSE or mark.startswith(r"\end{"))


def squeeze(text: str) -> str:
    """A cleaned text without marks and white space, but for a space between digits."""
    return re.sub(r"(?<![0-9]) | (?![0-9])", "", re.sub(rf"[\s{TEXT}]+", " ", text))


def split(text: str, marks: str) -> list[str]:
    """`text` split at those of the `marks` that no bracket encloses."""
    parts, depth = [""], 0
    for mark in _MARK.findall(text):
        depth += _deeper(mark)
        if mark in marks.split() and depth == 0:
            parts.append("")
        else:
            parts[-1] += mark
    return [part.strip() for part in parts]


class Items(NamedTuple):
    """A list (no brackets), a set, a tuple or an interval: round and square brackets."""

    left: str
    items: list[str]
    right: str


def items_of(text: str) -> Items:
    r"""The items between the brackets of a text; a text without brackets or commas is a list of one."""
    text = text.strip()
    marks, depth = _MARK.findall(text), 0
    for index, mark in enumerate(marks):
        depth += _deeper(mark)
        if depth == 0 and index < len(marks) - 1:
            break
    else:
        if depth == 0 and marks and marks[0] in ("(", "[", r"\{"):
            inside = text[len(marks[0]) : -len(marks[-1])].strip()
            items = [item for item in split(inside, ",") if inside]
            if len(items) > 1 or marks[0] == r"\{":
                return Items(marks[0], items, marks[-1])
            return items_of(inside) if marks[0] != "[" else Items("", [text], "")
    if not re.search(r"[(\[]|\\\{", text):  # between brackets a comma separates: (2,012) is a pair
        thousands = r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])"
        text = re.sub(thousands, lambda number: number[0].replace(",", ""), text)
    return Items("", [item for item in split(text, ", ;") if item], "")


_LINE = r"\(-\\infty,\s*\\infty\)\s*"
_BUILDER = re.compile(rf"\\\{{\s*({VARIABLE})\s*(?:\\in\s*{_LINE})?(?:\\mid|:|\|)(.*)\\\}}")
_MEMBER = re.compile(rf"({VARIABLE})\s*\\in(?![A-Za-z])(.*)")
_HOLE = re.compile(rf"({VARIABLE})\s*\\ne(?![A-Za-z])(.*)|{_LINE}(?:\\setminus|\\backslash|-|\\)\s*\\\{{([^,]*)\\\}}")
_SIGN = r"\s*(<|\\le(?![A-Za-z]))\s*"
_SIZE = re.compile(r"\|([^|<>=]+)\|\s*(<|>|\\[lg]e(?![A-Za-z]))([^-+<>|=]+)")
_BOUNDS = re.compile(rf"(?:([^<>]+?){_SIGN})?({VARIABLE})(?:{_SIGN}([^<>]+))?")


def region(text: str) -> tuple[str, str]:
    r"""The name and the set that "2 < x \le 3", "x \ne 0", "|x| < 1", "x \in S" describe; ("", text) for others."""
    text = text.strip()
    if builder := _BUILDER.fullmatch(text):
        return region(builder[2])
    if inside := _MEMBER.fullmatch(text):
        return squeeze(inside[1]), inside[2].strip()
    if hole := _HOLE.fullmatch(text):
        point = (hole[2] or hole[3] or "").strip()
        return squeeze(hole[1] or ""), rf"(-\infty,{point})\cup({point},\infty)"
    if size := _SIZE.fullmatch(text):
        inside, sign, bound = map(str.strip, size.groups())
        left, right = "[]" if "e" in sign else "()"
        found = (inside, f"-{bound}", bound) if re.fullmatch(VARIABLE, inside) else _reach(inside, bound)
        if not found:
            return "", text
        name, low, high = found
        outside = sign in (">", r"\ge")
        sets = rf"(-\infty,{low}{right}\cup{left}{high},\infty)" if outside else f"{left}{low},{high}{right}"
        return squeeze(name), sets
    turned = {">": "<", r"\ge": r"\le"}
    sides = re.split(r"(>|\\ge(?![A-Za-z]))", text)
    bounds = _BOUNDS.fullmatch(" ".join(turned.get(side, side) for side in reversed(sides)).strip())
    if not bounds or not (bounds[1] or bounds[5]):
        return "", text
    left = ("[" if bounds[2] == r"\le" else "(") + (bounds[1] or r"-\infty")
    right = (bounds[5] or r"\infty") + ("]" if bounds[4] == r"\le" else ")")
    return squeeze(bounds[3]), f"{left},{right}"


def _reach(inside: str, bound: str) -> tuple[str, str, str] | None:
    """Of |2x - 4| < 2 the letter and between which numbers it is, x, 1 and 3; None for what is not of this kind."""
    name, slope, shift, far = "", Fraction(0), Fraction(0), read_number(bound)
    for term in re.findall("[-+]?[^-+]+", squeeze(inside)):
        letter = term[-1] if term[-1].isalpha() else ""
        factor = term.removesuffix(letter)
        number = read_number(f"{factor}1" if factor in ("", "-", "+") else factor)
        if number is None or (letter and name not in ("", letter)):
            return None
        name = letter or name
        slope, shift = (slope + number.value, shift) if letter else (slope, shift + number.value)
    if far is None or not slope:
        return None
    low, high = sorted((side - shift) / slope for side in (-far.value, far.value))
    return name, str(low), str(high)


class Member(NamedTuple):
    """A value and the name that it was given; "" for none."""

    name: str
    value: str


def members(text: str) -> list[Member]:
    r"""The values that a list, a set, a union or both signs of \pm stand for; a text that is none of these alone."""
    found, hole = list[Member](), None
    outer = items_of(text)
    if outer.left == r"\{" and region(text)[0]:
        outer = Items("", [text], "")
    for item in outer.items if outer.left in ("", r"\{") else [text]:
        if found and hole and not re.search(r"[=<>]|\\[lgn]e(?![A-Za-z])", item):
            item = rf"{found[0].name} \ne {item}"
        hole = re.search(r"\\ne(?![A-Za-z])", item)
        name, value = region(item)
        name, value = (name, value) if value != item.strip() else named(item)
        name = name or (found[0].name if found and "=" not in item else "")
        for part in split(value, r"\cup"):
            inner = items_of(part)
            flat = inner.items if inner.left == r"\{" and outer.left == "" else [part]
            found += [Member(name, signed) for one in flat for signed in _signs(one)]
    return found


def _signs(text: str) -> list[str]:
    r"""The values of an expression with up to three \pm."""
    first, *others = re.split(r"\\(?:pm|mp)(?![A-Za-z])", text.strip())
    if not 0 < len(others) < 4:
        return [text]
    choices = product("+-", repeat=len(others))
    values = (first + "".join(map("".join, zip(signs, others, strict=True))) for signs in choices)
    return [value.removeprefix("+") for value in values]


def named(text: str) -> tuple[str, str]:
    r"""Name and value of "x = 5", "f(2) = 5", "AB = 5", "\text{Area} = 5"; ("", text) for others."""
    sides = split(text, "=")
    name = len(sides) > 1 and (is_name(sides[0]) or all(r"\begin" in side for side in sides))
    return (squeeze(sides[0]), sides[-1]) if name and sides[-1] else ("", text)


_NAMED = r"^([fghpqFGHPQ]'*)(?:\^\{-1\})?\([^()]*\)$|^([a-wA-Z]'*)\(\w+\)$|^\|([A-Z]{2})\|$"
"""f(2), f^{-1}(2), P(A); any letter of one sign, v(t); |AB|."""


def is_name(text: str) -> bool:
    """Whether a left side only names its value: no expression such as 2x or xy."""
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    letters = re.sub(r"\\[A-Za-z]+|_\{[\w,]+\}", "", re.sub(_NAMED, r"\1\2\3", squeeze(text)))
    expression = re.search(r"[^A-Za-z'{},.()?:\[\]]", letters) or re.fullmatch(r"[a-z]{2}", letters)
    words = re.sub(r"\\[A-Za-z]+", "", text)
    turned = TURNED.search(words) or re.search(r"\bthan\b", words)
    return not (expression or turned or commands & _WORKED_OUT) and bool(letters or commands)


def matrix(text: str) -> list[list[str]] | None:
    r"""Rows of entries; a tuple is a column."""
    found = re.fullmatch(r"\s*\\begin\{pmatrix\}(.*)\\end\{pmatrix\}\s*", text, re.DOTALL)
    if found and r"\begin" not in found[1]:
        return [row.split("&") for row in found[1].split(ROW) if row.strip()]
    items = items_of(text)
    if items.left == "[" and all(item.startswith("[") for item in items.items):  # [[1, 2], [3, 4]]
        return [items_of(item).items for item in items.items]
    return [[item] for item in items.items] if items.left + items.right == "()" else None


def based(text: str) -> tuple[str, str]:
    """Digits and base of a number in a base other than ten; ("", "") for another text."""
    found = re.fullmatch(r"\(?([0-9A-Z]+)\)?_\{?\(?(\w+)\)?\}?", squeeze(text))
    return (found[1], found[2]) if found and re.search("[0-9]", found[1]) else ("", "")
