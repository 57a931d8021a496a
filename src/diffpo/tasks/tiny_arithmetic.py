"""Chained arithmetic: add and subtract a row of one-digit numbers."""

from __future__ import annotations

import functools
import re
from typing import Any

from diffpo.config import TaskConfig
from diffpo.grading.answers import extract_answer
from diffpo.grading.numbers import parse_number
from diffpo.tasks.base import Split, TinyTask
from diffpo.tasks.stream import Dial, held_out, index_rng, require_reasoning_gym
from diffpo.types import Prompt, Verdict


class TinyArithmetic(TinyTask):
    """The prompt "3-5+9=" asks for "7". The dial counts terms."""

    name = "tiny_arithmetic"
    alphabet = "0123456789+-="

    def __init__(self, config: TaskConfig) -> None:
        self.seed = config.seed
        self.dial = Dial.from_config(config, easy=(2, 3), hard=(5, 6), limits=(2, 20))
        self.gen_length = len(f"-{self.dial.top * 9}") + 1  # and EOS
        self._drawn: dict[tuple[Split, int], Prompt] = {}  # an item takes milliseconds to make

    def draw(self, split: Split, index: int) -> Prompt:
        """The same terms never occur in both splits, in any order."""
        if (split, index) not in self._drawn:
            self._drawn[split, index] = self._draw(split, index)
        return self._drawn[split, index]

    def _draw(self, split: Split, index: int) -> Prompt:
        """A seeded item of reasoning-gym's chain_sum.

        Item n is a function of the data set's seed + n alone, whatever its size, so that seeds 0 and 1 share all items
        but one; drawing n from 62 bits keeps seeds and prompts apart.
        """
        rng = index_rng("arithmetic", self.seed, split, index)
        level, num_terms = self.dial.draw(rng)
        while True:
            item = _items(num_terms)[rng.getrandbits(62)]
            expression = item["metadata"]["expression"].replace(" ", "")
            terms = sorted(map(int, re.findall(r"[+-]?\d+", expression)))
            if held_out(self.seed, terms) == (split == "test"):
                return Prompt(f"arithmetic-{split}-{index}", f"{expression}=", level, {"answer": item["answer"]})

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Right if the answer is the same number, however it is written."""
        correct = parse_number(extract_answer(completion)) == int(self.solution(prompt))
        return Verdict(correct, reward=float(correct), parts={"correct": float(correct)})

    def solution(self, prompt: Prompt) -> str:
        """The sum."""
        return str(prompt.columns["answer"])


@functools.cache
def _items(num_terms: int) -> Any:
    require_reasoning_gym()
    import reasoning_gym  # takes a second, so only who draws a prompt pays

    options = {"min_terms": num_terms, "max_terms": num_terms, "min_digits": 1, "max_digits": 1}
    return reasoning_gym.create_dataset("chain_sum", seed=0, size=2**62, **options)
