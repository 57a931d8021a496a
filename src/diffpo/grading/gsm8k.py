"""GSM8K: word problems whose answer is a number."""

from __future__ import annotations

from typing import Any

from diffpo.grading import d1_rewards
from diffpo.grading.answers import final_answer
from diffpo.grading.equality import same_answer
from diffpo.grading.grade import Columns, Graded, GradedTask, graded
from diffpo.grading.references import read_number_reference


def strict(columns: Columns, completion: str) -> Graded:
    """Right if the answer is the number of the column `answer`, in whatever notation, with or without its unit.

    A reference of None is one that was lost, which no answer meets.
    """
    answer, truth = final_answer(completion), columns["answer"]
    question = str(columns.get("question", ""))
    return graded(
        completion, answer, answer is not None and truth is not None and same_answer(answer, str(truth), question)
    )


def columns(question: str, truth: Any) -> dict[str, Any]:
    """A number, a text that has one after ####, or null: d1's files lose negative references."""
    return {"question": question, "answer": None if truth is None else read_number_reference(truth)}


TASK = GradedTask(strict, d1_rewards.gsm8k, columns)
