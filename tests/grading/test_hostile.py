"""Graders under fire: a table of hostile completions and fuzzed ones; no hang, no crash, no point."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
from grading.hostile import BOUND, HOSTILE, disguises
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo.grading import maths
from diffpo.grading.answers import MAX_TEXT
from diffpo.grading.equality import same_answer
from diffpo.grading.grade import Graded
from diffpo.grading.tasks import GRADED

COLUMNS = {
    "gsm8k": {"answer": "7013"},
    "math500": {"problem": "Compute $x$.", "answer": r"\frac{7013}{\sqrt{3}}"},
    "countdown_cd3": {"numbers": [84, 97, 95], "target": 7013},
    "sudoku_4x4": {"puzzle": "3102200002100320", "solution": "3142243142131324"},
}
GRADERS = {
    **{f"{task}-strict": GRADED[task].strict for task in COLUMNS},
    **{f"{task}-d1": GRADED[task].d1 for task in COLUMNS},
}
FAIR_SHARE = 0.999
"""A hostile grid may hit blanks by chance, but not all of them."""


def grade(name: str, text: str) -> tuple[float, Graded]:
    """The best of three times, so that a busy machine does not decide, and the verdict."""
    task, times = name.rpartition("-")[0], []
    columns: dict[str, Any] = COLUMNS[task]
    for _ in range(3):
        same_answer.cache_clear()
        start = time.thread_time()
        graded = GRADERS[name](columns, text)
        times.append(time.thread_time() - start)
        if times[-1] < BOUND:
            break
    return min(times), graded


@pytest.mark.parametrize("name", GRADERS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_completions_earn_nothing_quickly(name: str, hostile: str) -> None:
    for text in disguises(HOSTILE[hostile]):
        seconds, graded = grade(name, text)
        assert not graded.correct and seconds < BOUND
        if name.endswith("strict"):
            assert graded.reward == 0.0 or (name.startswith("sudoku") and graded.reward < FAIR_SHARE)


def test_what_is_kept_of_answers_is_bounded() -> None:
    assert (same_answer.cache_info().maxsize or math.inf) * MAX_TEXT < 10**8


def test_longest_time() -> None:
    """Measures the slowest hostile completion of each grader; `pytest -rP` prints it."""
    for name in GRADERS:
        longest, hostile = max((max(grade(name, text)[0] for text in disguises(HOSTILE[key])), key) for key in HOSTILE)
        print(f"{name}: {longest * 1000:.2f} ms for {hostile!r}")
        assert longest < BOUND


FRAGMENTS = (
    *(r"\boxed{", "}", "{", "<answer>", "</answer>", "<reasoning>", "</reasoning>", "<|eot_id|>", "\n", " ", "```"),
    *(
        r"\frac",
        r"\sqrt",
        r"\text{",
        r"\pm",
        r"\cup",
        r"\infty",
        r"\pi",
        r"\sin",
        r"\log_",
        r"\binom",
        r"\left(",
        r"\%",
    ),
    *(
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\\",
        "&",
        r"\{",
        r"\}",
        r"\le",
        r"\in",
        r"\cdot",
        r"\overline{",
        r"\angle ",
    ),
    *(
        "+",
        "-",
        "*",
        "/",
        "^",
        "_",
        "!",
        "'",
        "(",
        ")",
        "[",
        "]",
        "|",
        "=",
        "<",
        ",",
        ";",
        ".",
        ":",
        "%",
        "$",
        "**",
        "^{",
    ),
    *(
        "0",
        "1",
        "7",
        "12",
        "999",
        "1,000",
        "0.5",
        "99999999",
        "x",
        "i",
        "e",
        "ab",
        "cm",
        " apples",
        " million",
        "nan",
        "inf",
    ),
    *("\u0663", "\u221a", "\u03c0", "\u00b2", "\uff11", "\x00", "\ud800", "\u202e"),
)
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=60).map("".join)


@settings(max_examples=1500)
@given(text=TEXTS | st.text(max_size=300))
def test_any_text_is_graded_in_time(text: str) -> None:
    for answer in (text, rf"\boxed{{{text}}}"):
        for name in GRADERS:
            seconds, graded = grade(name, answer)
            assert seconds < BOUND, (name, answer)
            assert not graded.correct and set(map(type, graded.parts.values())) <= {float}


@settings(max_examples=300)
@given(text=TEXTS)
def test_any_reference_is_graded_in_time(text: str) -> None:
    """Data can be hostile too: a reference that no reader knows goes to math-verify only if it is short and tame."""
    columns = {"problem": text, "answer": text.replace(r"\int", "")}
    start = time.thread_time()
    graded = maths.strict(columns, r"\boxed{7013}")
    assert graded.correct in (True, False) and time.thread_time() - start < 3.0


def test_graders_work_off_the_main_thread() -> None:
    found: list[bool] = []
    columns = {"problem": "", "answer": r"2\sqrt{3}"}
    thread = threading.Thread(target=lambda: found.append(maths.strict(columns, r"\boxed{\sqrt{12}}").correct))
    thread.start()
    thread.join()
    assert found == [True]
