"""GSM8K (arXiv 2110.14168) and MATH-500 (arXiv 2103.03874, 2305.20050): word problems and competition mathematics."""

from __future__ import annotations

from types import MappingProxyType

from diffpo.grading.d1 import last_box
from diffpo.tasks.chat import PREFILL, RowTask, answer_form
from diffpo.tasks.data import Row, Source, column
from diffpo.types import Prompt


class Gsm8k(RowTask):
    """Word problems whose answer is a number; 7473 to train on, 1319 to test on."""

    columns = "question, answer (the number, or a solution that ends in #### and the number)"
    default = MappingProxyType({split: Source("openai/gsm8k", split, "main") for split in ("train", "test")})

    def read(self, row: Row) -> Prompt:
        """The message asks for a boxed number."""
        question = column(row, ["question"])
        answer = str(column(row, ["answer"], (str, int, float))).rpartition("####")[2].strip()
        form = answer_form(r"\boxed{...}")
        text = f"Solve this problem and give its answer as a number.\n{form}\n\n{question}"
        columns = {"question": question, "answer": answer.removesuffix(".0")}
        return Prompt("", text, columns=columns, prefill=PREFILL)


class Math500(RowTask):
    """Competition problems whose answer is a number, an expression or a word; 12,000 to train on, 500 to test on."""

    columns = "problem, answer (or solution, whose last \\boxed{...} is the answer)"
    default = MappingProxyType(
        {"train": Source("ankner/math-500", "train"), "test": Source("HuggingFaceH4/MATH-500", "test")}
    )

    def read(self, row: Row) -> Prompt:
        """The message asks for a boxed answer."""
        problem = column(row, ["problem", "question"])
        if row.values.get("answer") is not None:
            answer = str(column(row, ["answer"], (str, int, float)))
        else:
            solution = column(row, ["solution", "answer"])
            answer = last_box(solution) if "\\boxed" in solution else None
            if not answer:
                raise ValueError(f"{row.place}: column 'solution' holds no \\boxed{{...}}, got {solution[-60:]!r}")
        form = answer_form(r"\boxed{...}")
        text = f"Solve this problem and box its answer.\n{form}\n\n{problem}"
        return Prompt("", text, columns={"problem": problem, "answer": answer}, prefill=PREFILL)
