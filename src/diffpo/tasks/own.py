"""A task of the user's own: rows that ask, and reward functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffpo.config import TaskConfig
from diffpo.tasks.base import Split
from diffpo.tasks.chat import RowTask
from diffpo.tasks.conversations import read_example
from diffpo.tasks.data import Row
from diffpo.tasks.stream import TEST_SHARE, stable_key
from diffpo.types import Prompt


class Own(RowTask):
    """Prompts from task.data, verdicts from task.reward. Without task.test_data a tenth of the rows is held out.

    A row may have `prefill`, the start of its completion, and `level`; all columns but the prompt go to the rewards.
    """

    for_any_model = True
    has_verdict = False
    columns = "prompt (and what your reward function reads)"

    def __init__(self, config: TaskConfig) -> None:
        if not (config.data and config.reward):
            raise ValueError("a task of your own takes task.data FILE.jsonl and task.reward FILE.py:FUNCTION, both")
        super().__init__(config)
        self.name = Path(config.data).stem or config.name

    def side(self, split: Split) -> Split:
        """Its own; that of training for both if there is no other file."""
        return "train" if self.config.test_data is None else split

    def read(self, row: Row) -> Prompt:
        """The prompt, text or conversation; an answer that the conversation ends in is the column `completion`."""
        asked, completion, source, prefill = read_example(row)
        if not isinstance(row.values.get("level") or "", str):
            raise ValueError(f"{row.place}: column 'level' must be text, got {row.values['level']!r}")
        columns = {name: value for name, value in row.values.items() if name != source}
        if completion is not None:
            columns.setdefault("completion", completion)
        return Prompt(
            id="",
            text=asked if isinstance(asked, str) else "\n\n".join(turn["content"] for turn in asked),
            level=row.values.get("level") or "",
            columns=columns,
            prefill=prefill,
            messages=() if isinstance(asked, str) else asked,
        )

    def choose(self, split: Split, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The split's rows: a tenth of the texts, at least one, held out where there is no test_data."""
        if self.config.test_data is None:
            texts = sorted({p.text for p in prompts}, key=lambda text: stable_key(self.config.seed, "held out", text))
            num_test = max(1, round(TEST_SHARE * len(texts))) if len(texts) > 1 else 0
            held_out = set(texts[:num_test])
            prompts = [prompt for prompt in prompts if (prompt.text in held_out) == (split == "test")]
        if not prompts:
            raise ValueError(
                f"{self.config.data}: one prompt leaves none to test on: give more rows, or task.test_data"
            )
        return prompts
