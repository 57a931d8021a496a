"""Any data set of reasoning-gym by name, "reasoning_gym:NAME", with its own scores.

Some of its scorers evaluate what they are given, so they run in processes that are killed when one takes
too long; items are made there too, because some depend on Python's hash seed, which is fixed in a worker.
"""

from __future__ import annotations

import functools
import re

from diffpo.config import TaskConfig, suggest
from diffpo.grading.answers import final_answer
from diffpo.grading.d1_rewards import last_tagged
from diffpo.grading.grade import formatted
from diffpo.processes.worker import Pool
from diffpo.tasks.base import Split
from diffpo.tasks.chat import PREFILL, ChatTask, answer_form, solved_form
from diffpo.tasks.stream import held_out, index_rng, require_reasoning_gym
from diffpo.types import Prompt, Verdict

TIME_LIMIT = 2.0
"""Seconds of CPU time that a score may take."""
MAKE_LIMIT = 60.0
"""Seconds of CPU time that an item may take to be made."""
POOL = Pool("diffpo.tasks.gym_worker", TIME_LIMIT)
MAX_DRAWS = 1000
"""Draws before a split counts as empty; one that holds a tenth of the problems is missed with chance 1e-46."""
KINDS = {"gsm_symbolic": 100}
"""Data sets whose problems are of many kinds, and of how many: a tenth of them count as new."""
_DECORATION = re.compile(r"^[\s$*`]+|[\s$*`]+$|\\[()\[\]]")


class Gym(ChatTask):
    """Prompts of one data set; the reward is its score, from 0 to 1, and right is a score of 1."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.dataset = config.name.partition(":")[2]
        names = dataset_names()
        if self.dataset not in names:
            raise ValueError(f"reasoning-gym has no data set {self.dataset!r}{suggest(self.dataset, names)}")
        if config.kinds != "all" and self.dataset not in KINDS:
            raise ValueError(f"task.kinds is for {', '.join(KINDS)}: the problems of {self.dataset} are of one kind")
        if not isinstance(config.kinds, str) and not set(config.kinds) <= set(range(KINDS[self.dataset])):
            last = KINDS[self.dataset] - 1
            raise ValueError(f"the kinds of {self.dataset} are numbered 0 to {last}, got task.kinds = {config.kinds}")
        self._seen: dict[tuple[Split, int], Prompt] = {}

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1 of an endless stream; a question is on one side of the split only."""
        for index in range(start, start + num):
            if (split, index) not in self._seen:
                self._seen[split, index] = self._draw(split, index)
        return [self._seen[split, index] for index in range(start, start + num)]

    def _draw(self, split: Split, index: int) -> Prompt:
        rng = index_rng(self.name, self.config.seed, split, index)
        for _ in range(MAX_DRAWS):
            seed = rng.getrandbits(32)
            found = POOL.ask(["item", self.dataset, seed], MAKE_LIMIT)
            if found is None:  # no item in time, or reasoning-gym failed to make one
                continue
            question = found["question"]
            if self._belongs(split, question, found["kind"]):
                text = f"{question}\n\n{answer_form('(the answer alone)')}"
                columns = {name: value for name, value in found.items() if value is not None} | {"seed": seed}
                return Prompt(f"{self.name}-{split}-{index}", text, columns=columns, prefill=PREFILL)
        raise ValueError(f"reasoning-gym's {self.dataset} has too few questions for a {split} split")

    def _belongs(self, split: Split, question: str, kind: int | None) -> bool:
        """Whether a question is of this split, and of the kinds that are asked for."""
        new = kind is not None and held_out(self.config.seed, "kind", kind)
        kinds = self.config.kinds
        wanted = {"all": True, "known": not new, "new": new}[kinds] if isinstance(kinds, str) else kind in kinds
        return wanted and held_out(self.config.seed, question) == (split == "test")

    def solution(self, prompt: Prompt) -> str:
        """The one that the data set writes out."""
        return solved_form(str(prompt.columns["solution"]), str(prompt.columns["answer"]))

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """The data set's score of the final answer; 0 if it has none in time.

        Dollars and bold type around an answer do not count.
        """
        answer = final_answer(completion) or last_tagged(completion) or ""  # a grid of signs has no letter
        plain = _DECORATION.sub("", answer).strip()
        asked = [["score", self.dataset, prompt.columns["seed"], text, TIME_LIMIT] for text in {answer, plain} - {""}]
        score = max((float(POOL.ask(request, MAKE_LIMIT) or 0.0) for request in asked), default=0.0)
        parts = {"score": score, "format": float(formatted(completion))}
        return Verdict(score >= 1.0, score, parts, answer=plain)


@functools.cache
def dataset_names() -> tuple[str, ...]:
    """The data sets that need no further options. ValueError where reasoning-gym is not installed."""
    require_reasoning_gym()
    return tuple(POOL.ask(["names"], MAKE_LIMIT))
