"""What the tasks for chat models share: d1's protocol, rows in epochs, graders or the user's own rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import Any

from diffpo.config import TaskConfig
from diffpo.grading.saved import RULES
from diffpo.rewards.functions import Rewards, load_rewards
from diffpo.tasks.base import Split
from diffpo.tasks.data import Row, Source, read_rows
from diffpo.tasks.stream import check_split, stable_key
from diffpo.types import Prompt, Verdict

PREFILL = "<reasoning>"
"""Start of every completion: the model is put into the form that the prompt asks for (d1's protocol)."""
GEN_LENGTH = 256
"""d1 trains at 256 tokens and evaluates at 128, 256 and 512."""


def answer_form(answer: str) -> str:
    """The form of a completion, in the words of every prompt; `answer` stands for what goes between the last tags."""
    return (
        "Write your reply in exactly this form:\n"
        f"<reasoning>\n(your thoughts, step by step)\n</reasoning>\n<answer>\n{answer}\n</answer>"
    )


class ChatTask:
    """A task whose prompts are one user message each. A subclass gives prompts and, but for own rewards, a grader."""

    gen_length = GEN_LENGTH

    def __init__(self, config: TaskConfig) -> None:
        self.name, self.config = config.name, config
        self.rewards: Rewards | None = load_rewards(config.reward) if config.reward else None

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1: train ones without end, test ones as far as they go."""
        raise NotImplementedError

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """The grader's verdict by the rules of the config, or that of the user's own rewards."""
        if self.rewards is not None:
            return self.rewards.verdict(prompt, completion)
        graded = RULES[self.config.rules][self.name](prompt.columns, completion)
        return Verdict(graded.correct, graded.reward, graded.parts)

    @property
    def alphabet(self) -> str:
        """None: only tiny models are pre-trained on solved examples."""
        raise ValueError(self._no_examples())

    def solution(self, prompt: Prompt) -> str:
        """None: only tiny models are pre-trained on solved examples."""
        raise ValueError(self._no_examples())

    def open_positions(self, prompt: Prompt) -> Sequence[int]:
        """None: only tiny models are pre-trained on solved examples."""
        raise ValueError(self._no_examples())

    def _no_examples(self) -> str:
        return f"{self.name} has no solved examples for a tiny model: choose tiny_sudoku or its like"


class RowTask(ChatTask):
    """A task whose prompts come from rows: a data set of the hub, or files of the same columns."""

    columns: str
    """What a row must have, for messages."""
    default: Mapping[Split, Source] = MappingProxyType({})
    """Where the rows come from that the config does not name."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._rows: dict[Split, list[Prompt]] = {}

    def read(self, row: Row) -> tuple[str, Mapping[str, Any]] | None:
        """A row's message and columns; None to leave the row out, ValueError for a bad one."""
        raise NotImplementedError

    def source(self, split: Split) -> Source:
        """Where the rows of a split come from."""
        given = {"train": self.config.data, "test": self.config.test_data}[split]
        return Source.parse(given, split) if given else self.default[split]

    def rows(self, split: Split) -> list[Prompt]:
        """All prompts of a split, in the order of its rows; read once."""
        check_split(split)
        if split not in self._rows:
            knob = {"train": "task.data", "test": "task.test_data"}[split]
            found = [self.read(row) for row in read_rows(self.source(split), self.columns, knob)]
            self._rows[split] = self.number(split, [pair for pair in found if pair is not None])
        return self._rows[split]

    def number(self, split: Split, pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Prompt]:
        """Prompts with their ids."""
        return [
            Prompt(f"{self.name}-{split}-{index}", text, columns=columns, prefill=PREFILL)
            for index, (text, columns) in enumerate(pairs)
        ]

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Test rows in their order, as far as they go; training rows in epochs, each a seeded shuffle of all rows.

        The id of a training prompt is its place in the endless stream, so that epochs draw other random numbers.
        """
        rows = self.rows(split)
        if split == "test":
            return rows[start : start + num]
        places = [divmod(index, len(rows)) for index in range(start, start + num)]
        orders = {epoch: self._order(epoch, len(rows)) for epoch in {epoch for epoch, _ in places}}
        return [
            replace(rows[orders[epoch][place]], id=f"{self.name}-train-{start + offset}")
            for offset, (epoch, place) in enumerate(places)
        ]

    def _order(self, epoch: int, num_rows: int) -> list[int]:
        order = list(range(num_rows))
        Random(stable_key(self.name, self.config.seed, "epoch", epoch)).shuffle(order)
        return order
