"""Where the answer of a completion stands. Any string whatever is searched within milliseconds."""

from __future__ import annotations

import re
from bisect import bisect_left

MAX_TEXT = 20_000
"""Only this many last characters of a completion are searched for its answer."""
MAX_OPEN = 8
"""Only this many boxes that never close are looked into."""

_BOX = r"\\?(?:boxed|fbox)\s*\{?"
"""What stands before the content of a box."""
_MARK = re.compile(r"\\?(?:boxed|fbox)\s*\{|\\[{}]|[{}]|</?answer>|</(?:reasoning|think)>", re.IGNORECASE)
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)\s{0,3}(?=[^\s{}$<A-Za-z])([^$\n<]{1,80}?)"
    r"(?=[.,;:!?]{0,3}(?:\s{1,3}[A-Za-z]{2}|\s{0,3}(?:\$|\n|<|\\[)\]]|$)))"
)
r"""A box without braces: \boxed 5, \boxed\frac12."""
_CUT = re.compile("</|<answer>|<(?:reasoning|think)>", re.IGNORECASE)
"""Where the content of a box or tag ends if it has not ended before."""
_LINE = re.compile("(.*?)>?$", re.MULTILINE)
"""The rest of a line, without a ">" that stands for a missing brace."""
_BRACE = re.compile(r"(?<!\\)[{}]")
_EMPTY_BOX = re.compile(r"\\?boxed\s*\{\s*\}")
_COMMAND = re.compile(r"\\?(?:boxed|fbox)|\\(?:text|left|right)|</?[A-Za-z]+>?")
_SAYS = re.compile(r"[^\W_]")
_NEXT_BOX = re.compile(
    r"\}(?:[\s$]|\\q?quad){0,4}(?:,|;|\\q?quad|,?\s?(?:\\text\{\s?)?(?:and|or)(?![A-Za-z])(?:\s?\})?)(?:[\s$]|\\q?quad){0,4}"
    r"(?:(?:\\text\{\s?)?(?:and|or)\s?\}?(?:[\s$]|\\q?quad){0,4})?(?:[A-Za-z]\s?=\s?)?" + _BOX
)
r"""From the end of a box to the next one of the same answer, and its name: \boxed{3}, \boxed{5}; y = \boxed{5}."""
_NAME = re.compile(r"(?<![A-Za-z0-9+*/^})-])([A-Za-z]\s?=\s?)" + _BOX)
_GOES_ON = re.compile(
    r"\}[\s$]{0,2}((?:\\(?:times|cdot)|[\u00d7·*])\s?10\s?(?:\^\s?(?:\{[^{}]{1,9}\}|-?[0-9]{1,9})|[⁻⁰¹²³⁴-⁹]{1,9})"
    r"|(?:\\text\{\s?)?(?:hundred|thousand|million|billion|trillion)(?![a-z])\}?|\\?%"
    r"|(?<![\s$])(?:\^\{?[0-9]{1,3}\}?|/[0-9]{1,9}|\\pi(?![A-Za-z])|\\sqrt\{[^{}]{1,20}\}))"
)
r"""A number that goes on behind its box: \boxed{5} \times 10^3."""
_MINUS = re.compile(
    r"(?:(?:^|[=$(:>]|\\\[|\bis)\s?[-\u2212]|=\s?[-\u2212]\s)"
    + _BOX
    + r"(?=\s*(?:[0-9.]|\\(?:[dt]?frac|sqrt|pi|infty|\$)))",
    re.MULTILINE,
)
r"""A minus before the box of a number that takes it from nothing, = -\boxed{5}; but for "- \boxed{5}", maybe a list."""
_FACTOR = re.compile(
    r"(?<![\w.,])(-?(?:[0-9](?:[0-9.,]*[0-9])?|\\pi|\\sqrt\{[^{}]{1,20}\})(?:\s?(?:\\cdot|\\times|[*/^])\s?)?)" + _BOX
)
r"""What touches a box and makes another value of it, 2\boxed{5}; but for a stutter, 11\boxed{1125}, or a gap that is
filled, 2\boxed{5} = 10."""
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never)|n['\u2019]t)(?:\s(?:be|equal(?:\sto)?))?[\s*]{0,3}(?:\$|\\[(\[])?\s?" + _BOX, re.I
)
"""A box that is no answer: "not" before it."""
_TURN_END = re.compile(
    r"<\|(?:eot_id|eom_id|endoftext|end_of_text|im_end|role_end|end|user|system)\|>|</s>|<end_of_turn>"
    r"|<start_of_turn>user|\[INST\]|<\|(?:start_header_id|im_start)\|>\s*(?!\s|assistant)"
)
"""What ends the turn, or begins somebody else's."""


def end_of_turn(text: str) -> str:
    """`text` up to the first marker that ends a turn of chat: what a reader is shown."""
    return _TURN_END.split(text, maxsplit=1)[0]


def extract_answer(text: str) -> str:
    """`final_answer`, or the last non-empty line of a text that has none."""
    found = final_answer(text)
    lines = text[-MAX_TEXT:].strip().splitlines() if found is None else []
    return found or (lines[-1].strip() if lines else "")


def final_answer(text: str) -> str | None:
    r"""The last \boxed{...} or <answer>...</answer> that says something; None if there is none.

    Last means the one that begins last, so that of two nested ones the inner counts. A box that is not closed ends with
    its line, a tag that is not closed with the text. An <answer> that lacks its opening tag begins after </reasoning>
    or </think>, one that lacks both after the tag that closed the reasoning, be that </answer>. Dots and other
    placeholders without a letter or a digit say nothing. Boxes with nothing but a comma, "and" or "or" between them are
    one answer.
    """
    text = end_of_turn(text)[-MAX_TEXT:]
    says = [char.start() for char in _SAYS.finditer(_COMMAND.sub(lambda command: " " * len(command[0]), text))]
    cuts = [*(tag.start() for tag in _CUT.finditer(text)), len(text)]
    tagged, untagged = _spans(text)
    for begin, end in (*sorted(tagged, reverse=True), *untagged):
        end = min(end, cuts[bisect_left(cuts, begin)])
        if bisect_left(says, begin) < bisect_left(says, end) and not _ends_at(_DENIED, text, begin):
            boxes = [*_boxes_before(text, begin, tagged), (begin, end)]
            contents = [_content(text, *box) for box in boxes]
            names = [_ends_at(_NAME, text, box[0]) for box in boxes] if len(boxes) > 1 else [None]
            return ", ".join((name[1] if name else "") + said for name, said in zip(names, contents, strict=True))
    return None


def _content(text: str, begin: int, end: int) -> str:
    """What a box or tag says, with the sign before it and what goes on behind it."""
    answer = _EMPTY_BOX.sub(" ", text[begin:end]).strip()
    braces = _BRACE.findall(answer)
    answer += "}" * (braces.count("{") - braces.count("}"))
    if _ends_at(_MINUS, text, begin):
        answer = f"-({answer})" if re.search("[-+]", answer) else f"-{answer}"
    factor = _ends_at(_FACTOR, text, begin)
    if factor and not answer.startswith(factor[1]) and not re.match(r"\}\s*=", text[end : end + 9]):
        answer = f"{factor[1]}({answer})"
    more = _GOES_ON.match(text, end)
    return f"{answer} {more[1]}" if more and re.search("[0-9]$", answer) else answer


def _ends_at(pattern: re.Pattern[str], text: str, index: int) -> re.Match[str] | None:
    found = pattern.finditer(text, max(0, index - 40), index + 20)
    return next((match for match in found if match.end() == index), None)


def _boxes_before(text: str, begin: int, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    r"""The boxes that make one answer with the one that begins here: of \boxed{3}, \boxed{5} the first."""
    starts = {end: start for start, end in spans}
    found: list[tuple[int, int]] = []
    while joint := _ends_at(_NEXT_BOX, text, begin):
        if joint.start() not in starts or len(found) == MAX_OPEN:
            break
        begin = starts[joint.start()]
        found.insert(0, (begin, joint.start()))
    return found


def _spans(text: str) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Where the contents of boxes and answer tags begin and end; and what follows the tag that closed the reasoning."""
    spans: list[tuple[int, int]] = []
    braces: list[tuple[bool, int]] = []  # open braces: whether it is a box, and where its content begins
    # where content begins: of an open <answer>, after </reasoning>, after a lone </answer>
    tag = reasoned = closed = -1
    for mark in _MARK.finditer(text):
        match mark[0].lower():
            case "}" if braces:
                is_box, begin = braces.pop()
                spans += [(begin, mark.start())] if is_box else []
            case "<answer>":
                spans += [(tag, mark.start())] if tag >= 0 else []
                tag = mark.end()
            case "</answer>" if max(tag, reasoned) >= 0:
                spans.append((max(tag, reasoned), mark.start()))
                tag = reasoned = -1
            case "</answer>":
                closed = mark.end()
            case "</reasoning>" | "</think>":
                reasoned = mark.end()
            case opening if opening.endswith("{") and not opening.startswith("\\{"):
                braces.append((opening != "{", mark.end()))
    spans += [box.span(1) for box in _BARE_BOX.finditer(text)]
    opened = [begin for is_box, begin in braces[-MAX_OPEN:] if is_box]
    spans += [line.span(1) for begin in opened if (line := _LINE.match(text, begin))]
    spans += [(tag, len(text))] if tag >= 0 else []
    after = max(reasoned, closed)
    return spans, [(after, len(text))] if after >= 0 else []
