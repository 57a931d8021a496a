"""The rewards that are built in: number and math compare the final answer with a column, code runs tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffpo.grading.answers import parse_number
from diffpo.grading.graders import gsm8k, math500
from diffpo.rewards import code as sandbox
from diffpo.rewards.calls import Reward


def number(completions: Sequence[Any], answer: Sequence[Any]) -> list[float | None]:
    """1 where the final answer is the number of the column `answer`, as in GSM8K."""
    pairs = zip(completions, answer, strict=True)
    return [
        None if truth is None else gsm8k({"answer": reference(truth)}, text_of(completion)).reward
        for completion, truth in pairs
    ]


def maths(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any]) -> list[float | None]:
    """1 where the final answer has the value of the column `answer`, as in MATH-500."""
    rows = zip(prompts, completions, answer, strict=True)
    return [
        None
        if truth is None
        else math500({"answer": reference(truth), "problem": text_of(prompt)}, text_of(completion)).reward
        for prompt, completion, truth in rows
    ]


def code(completions: Sequence[Any], tests: Sequence[Any]) -> list[float | None]:
    """The share of the row's `tests`, a text or a list of texts, that the code passes."""
    joined = ("\n".join(test) if isinstance(test, list | tuple) else str(test) for test in tests)
    return [
        sandbox.share_passed(sandbox.code_of(text_of(completion)), test)
        for completion, test in zip(completions, joined, strict=True)
    ]


def text_of(message: Any) -> str:
    """The text of a prompt or completion, be it a text or a list of chat messages."""
    return message if isinstance(message, str) else "\n".join(str(part["content"]) for part in message)


def reference(answer: Any) -> str:
    """The answer in a column: what stands behind the last ####, where GSM8K has its solutions end so."""
    return str(answer).rpartition("####")[2].strip().removesuffix(".0")


def _check_number(columns: Mapping[str, Any]) -> None:
    if parse_number(reference(columns["answer"])) is None:
        raise ValueError(f"column 'answer' holds no number, got {str(columns['answer'])[-60:]!r}")


def _check_maths(columns: Mapping[str, Any]) -> None:
    if isinstance(columns["answer"], list | dict) or not reference(columns["answer"]):
        raise ValueError(f"column 'answer' holds no answer in text, got {str(columns['answer'])[-60:]!r}")


BUILTIN: dict[str, Reward] = {
    "number": Reward("number", number, columns=("answer",), check=_check_number),
    "math": Reward("math", maths, columns=("answer",), check=_check_maths),
    "code": Reward("code", code, columns=("tests",)),
}
