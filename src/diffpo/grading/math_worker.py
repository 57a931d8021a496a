"""math-verify in a process of its own, for the rare reference that our reader does not know: an integral, a floor.

math-verify guards itself by signals, which work in a main thread only and do not stop sympy in C; here the process is
killed when its time is up, whatever thread asks.
"""

from __future__ import annotations

import re
from typing import Any

from diffpo.processes.worker import Worker, serve

TIME_LIMIT = 2.0
"""Seconds that a comparison may take."""
MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space."""
MAX_LENGTH = 160
"""Characters of an expression that is sent."""

_TOWER = re.compile(r"\^\s*(?:\{[^{}]*[\^!]|\{?\s*-?\s*[0-9]{4,})|[0-9]{4,}\s*\}?\s*!|!\s*!|\*\*")
"""Powers of powers, exponents of four digits, and factorials of such: not worth the process's time."""


def is_tame(text: str) -> bool:
    """Whether `text` is short, closed, in ASCII and without towers of powers."""
    closed = all(text.count(left) == text.count(right) for left, right in ("{}", "()", "[]")) or "\\left" in text
    return 0 < len(text) <= MAX_LENGTH and text.isascii() and closed and not _TOWER.search(text)


WORKER = Worker("diffpo.grading.math_worker", TIME_LIMIT)


def math_verify_agrees(answer: str, truth: str) -> bool:
    """math-verify's verdict; False where an expression is not tame, or none comes within the time limit."""
    return is_tame(answer) and is_tame(truth) and bool(WORKER.ask([answer, truth]))


def _compare(request: tuple[str, str]) -> bool:
    import math_verify

    untimed: Any = {"parsing_timeout": None}  # this process is killed instead
    given, expected = (math_verify.parse(f"\\boxed{{{text}}}", **untimed) for text in request)
    return bool(math_verify.verify(expected, given, timeout_seconds=None))


if __name__ == "__main__":
    import logging

    import math_verify  # noqa: F401  # before the first request, whose time is counted

    logging.disable()
    serve(_compare, MEMORY_LIMIT)
