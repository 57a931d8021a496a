"""GSM8K (arXiv 2110.14168) and MATH-500 (arXiv 2103.03874, 2305.20050): word problems and competition mathematics."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from diffpo.grading.references import read_number_reference, read_reference
from diffpo.tasks.chat import BOX, RowTask, message, solved_form
from diffpo.tasks.data import Row, Source, column
from diffpo.types import Prompt

_CALCULATION = re.compile(r"<<[^<>]*>>")


class Gsm8k(RowTask):
    """Word problems whose answer is a number; 7473 to train on, 1319 to test on."""

    columns = "question, answer (the number, or a solution that ends in #### and the number)"
    default = MappingProxyType({split: Source("openai/gsm8k", split, "main") for split in ("train", "test")})

    def read(self, row: Row) -> Prompt:
        """The message asks for a boxed number."""
        question = column(row, ["question"])
        answer = _read(row, "answer", read_number_reference)
        columns = {"question": question, "answer": answer}
        written = row.values["answer"]
        if isinstance(written, str) and "####" in written:
            columns["solution"] = _CALCULATION.sub("", written.rpartition("####")[0]).strip()
        return message("Solve this problem and give its answer as a number.", BOX, question, **columns)

    def solution(self, prompt: Prompt) -> str:
        """The row's own, without the notes for a calculator."""
        if prompt.columns.get("solution") is None:  # reward functions are given it as None
            raise ValueError(f"{prompt.place}: column 'answer' holds the number alone, no solution that ends in ####")
        return solved_form(str(prompt.columns["solution"]), f"\\boxed{{{prompt.columns['answer']}}}")


class Math500(RowTask):
    """Competition problems whose answer is a number, an expression or a word; 12,000 to train on, 500 to test on."""

    columns = "problem, answer (or solution, whose last \\boxed{...} is the answer)"
    default = MappingProxyType(
        {"train": Source("ankner/math-500", "train"), "test": Source("HuggingFaceH4/MATH-500", "test")}
    )

    def read(self, row: Row) -> Prompt:
        """The message asks for a boxed answer."""
        problem = column(row, ["problem", "question"])
        name = "answer" if row.values.get("answer") is not None else "solution"
        if name == "solution" and "\\boxed" not in (solution := column(row, ["solution", "answer"])):
            raise ValueError(f"{row.place}: column 'solution' holds no \\boxed{{...}}, got {solution[-60:]!r}")
        answer = _read(row, name, read_reference)
        return message("Solve this problem and box its answer.", BOX, problem, problem=problem, answer=answer)


def _read(row: Row, name: str, read: Callable[[Any], str]) -> str:
    """The reference in a column; ValueError names the row."""
    found = column(row, [name], (str, int, float))
    try:
        return read(found)
    except ValueError as error:
        raise ValueError(f"{row.place}: column {name!r}: {error}") from None
