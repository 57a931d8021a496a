"""d1's rewards in training beside the verdicts of its evaluation, one grader a task, quirks included.

The text that a reward sees is the prefilled <reasoning> and the completion, without special tokens. One thing is ours:
d1 asks for a bare answer in training and for a boxed one in evaluation; here both ask for a box, and a reward reads an
answer that is one box as its content.
"""

from __future__ import annotations

import re

from diffpo.grading import d1, d1_math
from diffpo.grading.grade import Columns, Graded

PREFILL = "<reasoning>"
"""Start of every completion: the model is put into the form that the prompt asks for."""
_SPECIAL = re.compile(r"<\|[a-zA-Z_]+\|>")
_STRICT = re.compile(r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$")
"""Without DOTALL: the reasoning and the answer have one line each."""
_SOFT = re.compile(
    r"<reasoning>(?:(?>.*?</reasoning>[^\S\n]*<answer>)|.*</reasoning>[^\S\n]*\n\s*<answer>).*?</answer>"
)
"""Of the answers on the line of the reasoning the first: where it does not end, none behind it does. Or one below."""


def gsm8k(columns: Columns, completion: str) -> Graded:
    """At most 4.0: tags 0.5, soft and strict format 0.5 each, digits 0.5, the very string of the answer 2.0.

    Quirks: the formats cannot match reasoning of several lines, "18.0" and "$18" are not "18", and each character
    after </answer> costs 0.001, twice.
    """
    text = PREFILL + _SPECIAL.sub("", completion)
    answer = unboxed(text.rpartition("<answer>")[2].partition("</answer>")[0].strip())  # without tags all of it
    parts = {
        "xmlcount": count_tags(text),
        "soft_format": 0.5 * softly_formatted(text),
        "strict_format": 0.5 * bool(_STRICT.match(text)),
        "int": 0.5 * answer.isdigit(),
        "correctness": 2.0 * (answer == str(columns["answer"])),
    }
    number = d1.gsm8k_answer(completion)
    correct = number is not None and number == _float(columns["answer"])
    return Graded("" if number is None else f"{number:g}", correct, sum(parts.values()), parts)


def _float(answer: object) -> float | None:
    """The reference as d1 reads it: digits, commas, a decimal point; None for a negative one, which nothing matches."""
    found = re.fullmatch(r"\$?([0-9,]+(?:\.[0-9]+)?)", str(answer).strip())
    return float(found[1].replace(",", "")) if found else None


def unboxed(answer: str) -> str:
    r"""The content of an answer that is \boxed{...} and nothing else."""
    box = re.fullmatch(r"\\boxed\{([^{}]*)\}", answer)
    return box[1].strip() if box else answer


def count_tags(text: str) -> float:
    """An eighth for each tag that stands once on a line of its own, less 0.001 for each character behind the last."""
    count = 0.125 * (text.count("<reasoning>\n") == 1) + 0.125 * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        count += 0.125 - 0.001 * len(text.rpartition("\n</answer>\n")[2])
    if text.count("\n</answer>") == 1:
        count += 0.125 - 0.001 * (len(text.rpartition("\n</answer>")[2]) - 1)
    return count


def softly_formatted(text: str) -> bool:
    """Whether the text begins with reasoning and answer in their tags, neither of them broken over lines."""
    return bool(_SOFT.match(text))


def math500(columns: Columns, completion: str) -> Graded:
    r"""At most 2.75: the last box equal by clean-up 2.0, an <answer> 0.5, and 0.25 in any case.

    Quirk: the half point for \boxed in the answer looks for a backspace and "oxed", so that nothing earns it.
    """
    text = PREFILL + _SPECIAL.sub("", completion)
    box = d1.last_box(text)
    _, opened, behind = text.partition("<answer>")
    inside = behind.partition("<answer>")[0].partition("</answer>")[0] if opened else text
    parts = {
        "correctness": 2.0 * d1_math.equivalent(text if box is None else box, str(columns["answer"])),
        "format": 0.5 * (bool(opened) + (1.0 if "\boxed" in inside else 0.5)),
    }
    answer = d1.math_answer(completion)
    correct = answer is not None and d1_math.equivalent(answer, str(columns["answer"]))
    return Graded(answer or "", correct, sum(parts.values()), parts)


def last_tagged(text: str) -> str | None:
    """The content of the last <answer>...</answer> that is found reading from the left; None if there is none."""
    found = [tag[1] for tag in re.finditer(r"<answer>(.*?)(</answer>|\Z)", text, re.DOTALL) if tag[2]]
    return found[-1].strip() if found else None


def countdown(columns: Columns, completion: str) -> Graded:
    """1.0 for an equation with each number once and the target's value, 0.1 for any other <answer>, 0 for none.

    Quirks: floats, within 1e-5; powers and floor division count, and one that takes forever would hang d1.
    """
    numbers, target = list(columns["numbers"]), columns["target"]
    tag = last_tagged(PREFILL + completion)
    tag = None if tag is None else unboxed(tag)
    right = tag is not None and d1.countdown_correct(tag, numbers, target)
    reward = 0.0 if tag is None else 1.0 if right else 0.1
    equation = d1.countdown_answer(completion)
    return Graded(equation, d1.countdown_correct(equation, numbers, target), reward, {"equation": reward})


def sudoku(columns: Columns, completion: str) -> Graded:
    """The share of blanks right among the digits of the last <answer>, padded with 0 or cut to 16.

    Quirks: an answer of any length counts, and so does one that changes the clues. Evaluation reads the answer in
    five other ways; right is an answer that fills all blanks right.
    """
    puzzle, solution = str(columns["puzzle"]), str(columns["solution"])
    num_blanks = max(1, puzzle.count("0"))
    digits = "".join(filter(str.isdigit, last_tagged(PREFILL + completion) or ""))
    share = d1.sudoku_cells(digits[: d1.NUM_CELLS], puzzle, solution) / num_blanks
    answer = d1.sudoku_answer(completion)
    cells = d1.sudoku_cells(answer, puzzle, solution)
    return Graded(answer, cells == num_blanks, share, {"blanks": share, "cells": cells / num_blanks})
