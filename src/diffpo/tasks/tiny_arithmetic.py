"""Chained arithmetic: add and subtract a row of one-digit numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffpo.config import TaskConfig
from diffpo.grading.answers import extract_answer
from diffpo.grading.numbers import parse_number
from diffpo.tasks.base import Split, TinyTask
from diffpo.tasks.stream import Dial, GymStream, Problem
from diffpo.types import Prompt, Verdict

NUM_DIGITS = 1
"""Digits of each term."""


class TinyArithmetic(TinyTask):
    """The prompt "3-5+9=" asks for "7". The dial counts terms."""

    name = "tiny_arithmetic"
    alphabet = "0123456789+-="

    def __init__(self, config: TaskConfig) -> None:
        self.dial = Dial.from_config(config, easy=(2, 3), hard=(5, 6), limits=(2, 20))
        self.stream = GymStream("arithmetic", "chain_sum", config.seed, self.dial, _options, _read)
        self.rewards = None
        self.gen_length = len(f"-{self.dial.top * (10**NUM_DIGITS - 1)}") + 1  # and EOS

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1; the same terms never occur in both splits, in any order."""
        return self.stream.prompts(split, num, start)

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Right if the answer is the same number, however it is written."""
        correct = parse_number(extract_answer(completion)) == int(self.solution(prompt))
        return Verdict(correct, reward=float(correct), parts={"correct": float(correct)})

    def solution(self, prompt: Prompt) -> str:
        """The sum."""
        return str(prompt.columns["answer"])

    def open_positions(self, prompt: Prompt) -> range:
        """All: the prompt gives nothing away."""
        return range(len(self.solution(prompt)))


def _options(num_terms: int) -> dict[str, int]:
    return {"min_terms": num_terms, "max_terms": num_terms, "min_digits": NUM_DIGITS, "max_digits": NUM_DIGITS}


def _read(item: Mapping[str, Any]) -> Problem:
    expression = item["metadata"]["expression"].replace(" ", "")
    terms = sorted(int(term) for term in re.findall(r"[+-]?\d+", expression))
    return Problem(text=f"{expression}=", canonical=terms, columns={"answer": item["answer"]})
