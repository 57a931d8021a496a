"""MATH-500: competition problems whose answer is a number, an expression or a word."""

from __future__ import annotations

from typing import Any

from diffpo.grading import d1_rewards
from diffpo.grading.answers import final_answer
from diffpo.grading.equality import same_answer
from diffpo.grading.grade import Columns, Graded, GradedTask, graded
from diffpo.grading.references import read_reference


def strict(columns: Columns, completion: str) -> Graded:
    """Right if the answer has the value of the column `answer`, worked out."""
    answer, question = final_answer(completion), str(columns.get("problem", ""))
    return graded(completion, answer, answer is not None and same_answer(answer, str(columns["answer"]), question))


def columns(question: str, truth: Any) -> dict[str, Any]:
    """An answer in LaTeX, in words, or a number."""
    return {"problem": question, "answer": read_reference(truth)}


TASK = GradedTask(strict, d1_rewards.math500, columns)
