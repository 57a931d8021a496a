"""Any data set of reasoning-gym by name, "reasoning_gym:NAME", with its own scores.

Some of its scorers evaluate what they are given, so they run in a process that is killed when one takes too long.
"""

from __future__ import annotations

import functools
from typing import Any

from diffpo.config import TaskConfig, suggest
from diffpo.grading.answers import final_answer
from diffpo.grading.graders import formatted
from diffpo.processes.worker import Worker
from diffpo.tasks.base import Split
from diffpo.tasks.chat import PREFILL, ChatTask, answer_form
from diffpo.tasks.stream import MAX_DRAWS, TEST_SHARE, index_rng, stable_key
from diffpo.types import Prompt, Verdict

TIME_LIMIT = 2.0
"""Seconds that a score may take."""
MAX_ANSWER = 4000
"""Characters of an answer that is scored."""
WORKER = Worker("diffpo.tasks.gym_worker", TIME_LIMIT)


class Gym(ChatTask):
    """Prompts of one data set; the reward is its score, from 0 to 1, and right is a score of 1."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.dataset = config.name.partition(":")[2]
        names = dataset_names()
        if self.dataset not in names:
            raise ValueError(f"reasoning-gym has no data set {self.dataset!r}{suggest(self.dataset, names)}")
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
            found = item(self.dataset, seed)
            question = str(found["question"])
            if (stable_key(self.config.seed, question) < TEST_SHARE * 2**62) == (split == "test"):
                text = f"{question}\n\n{answer_form('(the answer alone)')}"
                columns = {"seed": seed, "answer": found["answer"], "question": question}
                return Prompt(f"{self.name}-{split}-{index}", text, columns=columns, prefill=PREFILL)
        raise ValueError(f"reasoning-gym's {self.dataset} has too few questions for a {split} split")

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """The data set's score of the final answer; 0 if it has none in time."""
        answer = (final_answer(completion) or "")[:MAX_ANSWER]
        score = float(WORKER.ask([self.dataset, prompt.columns["seed"], answer]) or 0.0) if answer else 0.0
        parts = {"score": score, "format": float(formatted(completion))}
        return Verdict(score >= 1.0, score, parts)


@functools.cache
def dataset_names() -> tuple[str, ...]:
    """The data sets that need no further options."""
    from reasoning_gym.factory import DATASETS

    return tuple(sorted(set(DATASETS) - {"composite"}))


def item(dataset: str, seed: int) -> dict[str, Any]:
    """The one item of the data set of size 1 with this seed, as `gym_worker` makes it again."""
    import reasoning_gym

    return reasoning_gym.create_dataset(dataset, seed=seed, size=1)[0]
