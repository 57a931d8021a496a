"""GSM8K and MATH-500: problems whose answer is a number, an expression or a word."""

from __future__ import annotations

from typing import Any

from diffpo.grading import d1_rewards
from diffpo.grading.answers import final_answer
from diffpo.grading.equality import same_answer
from diffpo.grading.grade import Columns, Graded, GradedTask, graded
from diffpo.grading.references import read_number_reference, read_reference


def strict(columns: Columns, completion: str) -> Graded:
    """Right if the answer has the value of the column `answer`, worked out; None is one that was lost, never met.

    The column `problem` or `question` says what was asked, if there is one.
    """
    answer, truth = final_answer(completion), columns["answer"]
    question = str(columns.get("problem", columns.get("question", "")))
    correct = answer is not None and truth is not None and same_answer(answer, str(truth), question)
    return graded(completion, answer, correct)


def gsm8k_columns(question: str, truth: Any) -> dict[str, Any]:
    """A number, a text that has one after ####, or null: d1's files lose negative references."""
    return {"question": question, "answer": None if truth is None else read_number_reference(truth)}


def math500_columns(question: str, truth: Any) -> dict[str, Any]:
    """An answer in LaTeX, in words, or a number."""
    return {"problem": question, "answer": read_reference(truth)}


GSM8K = GradedTask(strict, d1_rewards.gsm8k, gsm8k_columns)
MATH500 = GradedTask(strict, d1_rewards.math500, math500_columns)
