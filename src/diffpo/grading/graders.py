"""Our graders of the published tasks: from a completion to its answer, whether that is right, and the reward.

The default rules (task.rules = "strict"), shared by training, evaluation and `diffpo grade`; docs/grading.md states
them and lists where they differ from d1's. Any string whatever is judged within milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from diffpo.grading.answers import end_of_turn, evaluate_expression, final_answer, parse_number
from diffpo.grading.equality import same_answer

Columns = Mapping[str, Any]


class Graded(NamedTuple):
    """What a grader makes of a completion."""

    answer: str
    """The answer that was read; "" for none."""
    correct: bool
    reward: float
    parts: Mapping[str, float]
    """Named parts of the reward, and shares that are only logged."""


NUM_CELLS = 16


def formatted(completion: str) -> bool:
    """Whether a completion reasons, closes </reasoning>, and then answers between tags, each once and in this order."""
    text = end_of_turn(completion).strip()
    tags = re.findall(r"</?(?:reasoning|answer)>", text)
    wanted = ["</reasoning>", "<answer>", "</answer>"]
    return tags in (wanted, ["<reasoning>", *wanted]) and text.endswith("</answer>")


def _graded(completion: str, answer: str | None, correct: bool) -> Graded:
    parts = {"correct": float(correct), "format": float(formatted(completion))}
    return Graded(answer or "", correct, float(correct), parts)


def gsm8k(columns: Columns, completion: str) -> Graded:
    """Right if the answer is the number of the column `answer`, in whatever notation, with or without its unit."""
    answer = final_answer(completion)
    truth = str(columns["answer"])
    number = parse_number(truth)
    correct = (
        answer is not None and number is not None and (same_answer(answer, truth) or only_number(answer) == number)
    )
    return _graded(completion, answer, correct)


def math500(columns: Columns, completion: str) -> Graded:
    """Right if the answer has the value of the column `answer`, worked out."""
    answer = final_answer(completion)
    truth, question = str(columns["answer"]), str(columns.get("problem", ""))
    number = parse_number(truth)
    correct = answer is not None and (
        same_answer(answer, truth, question)
        or (number is not None and only_number(answer) == number)
        or ((formula := only_formula(answer)) != "" and same_answer(formula, truth, question))
    )
    return _graded(completion, answer, correct)


_SENTENCE_NUMBER = re.compile(r"(?:[-+] ?)?(?:\$ ?)?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?")
_UNFINISHED = re.compile(
    r"[0-9)]\s*[-+*/^!\u00d7\u00f7]|\\(?!\$|%|[()])"
    r"|\b(?:half|third|quarter|twice|double|triple|thrice|times|dozen|hundred|thousand|million|billion)\b"
    r"|\b(?:not|never|neither|except|unless)\b|n't\b",
    re.IGNORECASE,
)
"""Arithmetic that is left to do, in signs or in words, and words that turn a statement round."""


def only_number(text: str) -> Fraction | None:
    """The one number that a sentence states, after its last equals sign: "She makes 9 * 2 = $18 a day" says 18.

    None where there is no word, more than one number, or arithmetic left to do.
    """
    text = re.sub(r"\\text\s*\{([^{}]*)\}|\*\*", r" \1 ", text[-400:].rpartition("=")[2])
    text = re.sub(r"\b([0-9]{1,2}):00\b", r"\1", text)
    if not re.search(r"[A-Za-z]{2}", text) or _UNFINISHED.search(text):
        return None
    values = {Fraction(re.sub(r"[ $,+]", "", number)) for number in _SENTENCE_NUMBER.findall(text)}
    rest = _SENTENCE_NUMBER.sub("#", text)
    return values.pop() if len(values) == 1 and not re.search(r"[\w.,:]#|#[\w^]|#[.,:]#|\d", rest) else None


def only_formula(text: str) -> str:
    r"""The one formula, between dollars or \( \), of an answer that is a sentence; "" if there is none or several."""
    found = re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text[-1000:], re.DOTALL)
    around = re.sub(r"\$[^$]+\$|\\\(.+?\\\)|\\\[.+?\\\]", " ", text[-1000:], flags=re.DOTALL)
    if len(found) != 1 or not re.fullmatch(r"[A-Za-z\s.,:'-]*", around):
        return ""
    return next(filter(None, found[0]), "")


def countdown(columns: Columns, completion: str) -> Graded:
    """Right if the answer is an expression of all `numbers`, each once, with the value `target`, exactly."""
    answer = final_answer(completion)
    sides = expression_sides(answer or "")
    numbers, target = sorted(columns["numbers"]), columns["target"]
    readings = [found for side in sides if (found := evaluate_expression(side))]
    uses = any(sorted(found.literals) == numbers for found in readings)
    correct = any(sorted(found.literals) == numbers and found.value == target for found in readings)
    graded = _graded(completion, answer, correct)
    return graded._replace(parts={**graded.parts, "numbers": float(uses)})


def expression_sides(answer: str) -> list[str]:
    """The expression that an answer gives: its first side, or the last where the first is a lone number or a name."""
    text = re.sub(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[()\[\],;!]|\$|\*\*|`", " ", answer[-1000:])
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", text)
    text = re.sub(r"\\text\s*\{[^{}]*\}", " ", text).translate(str.maketrans("[]{}", "()()")).strip().rstrip(".")
    sides = [side.strip() for side in text.split("=")]
    lone = len(sides) > 1 and re.fullmatch(r"-?[0-9]+|[A-Za-z ]*", sides[0])
    return sides[-1:] if lone else sides[:1]


def sudoku(columns: Columns, completion: str) -> Graded:
    """Rewards the share of blanks filled right in a whole grid that keeps its clues; right if that is all of them."""
    puzzle, solution = str(columns["puzzle"]), str(columns["solution"])
    answer = final_answer(completion)
    grid = read_grid(answer or "")
    blanks = [cell for cell, clue in enumerate(puzzle) if clue == "0"]
    keeps_clues = len(grid) == NUM_CELLS and all(clue in ("0", digit) for clue, digit in zip(puzzle, grid, strict=True))
    filled = sum(grid[cell] == solution[cell] for cell in blanks) if keeps_clues else 0
    correct = keeps_clues and filled == len(blanks)
    share = filled / max(1, len(blanks))
    parts = {"correct": float(correct), "blanks": share, "format": float(formatted(completion))}
    return Graded(grid or answer or "", correct, share, parts)


def read_grid(answer: str) -> str:
    """The 16 digits of a grid, however they are spaced, ruled or fenced; "" if there are more, fewer or other ones."""
    text = re.sub(r"```[a-z]*", " ", answer[-1000:])
    if re.fullmatch(r"[0-4\s|,;:.+\-_\[\](){}'\"`*&\\]*", text):
        digits = re.sub(r"[^0-4]", "", text)
    else:
        runs = re.findall(r"(?<![0-9])[0-4]{16}(?![0-9])", text)
        digits = runs[0] if len(set(runs)) == 1 else ""
    return digits if len(digits) == NUM_CELLS else ""


GRADERS = {"gsm8k": gsm8k, "math500": math500, "countdown_cd3": countdown, "sudoku_4x4": sudoku}
