"""A task of the user's own: rows with a column `prompt`, and reward functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.config import TaskConfig
from diffpo.tasks.base import Split
from diffpo.tasks.chat import RowTask
from diffpo.tasks.data import Row, Source, column
from diffpo.tasks.stream import TEST_SHARE, stable_key
from diffpo.types import Prompt


class Own(RowTask):
    """Prompts from task.data, verdicts from task.reward. Without task.test_data a tenth of the rows is held out.

    A row may have `prefill`, the start of its completion, and `level`; all other columns go to the rewards.
    """

    columns = "prompt (and what your reward function reads)"

    def __init__(self, config: TaskConfig) -> None:
        if not (config.data and config.reward):
            raise ValueError("a task of your own takes task.data FILE.jsonl and task.reward FILE.py:FUNCTION, both")
        super().__init__(config)
        self.name = Path(config.data).stem or config.name

    def source(self, split: Split) -> Source:
        """The split's file; task.data for both if there is no other."""
        if split == "test" and self.config.test_data is None:
            return super().source("train")
        return super().source(split)

    def read(self, row: Row) -> tuple[str, Mapping[str, Any]]:
        """The prompt's text; a chat of one user message is such a text too."""
        prompt = column(row, ["prompt"], (str, list))
        for name in ("prefill", "level"):
            if name in row.values and not isinstance(row.values[name], str):
                raise ValueError(f"{row.place}: column {name!r} must be text, got {row.values[name]!r}")
        return _text(prompt, row.place), {**row.values, "place": row.place}

    def number(self, split: Split, pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Prompt]:
        """The split's rows: a tenth of the texts, at least one, held out where there is no test_data."""
        if self.config.test_data is None:
            texts = sorted({text for text, _ in pairs}, key=lambda text: stable_key(self.config.seed, "held out", text))
            num_test = max(1, round(TEST_SHARE * len(texts))) if len(texts) > 1 else 0
            held_out = set(texts[:num_test])
            pairs = [pair for pair in pairs if (pair[0] in held_out) == (split == "test")]
        if not pairs:
            raise ValueError(
                f"{self.config.data}: one prompt leaves none to test on: give more rows, or task.test_data"
            )
        return [
            Prompt(f"{self.name}-{split}-{index}", text, row.get("level", ""), row, row.get("prefill", ""))
            for index, (text, row) in enumerate(pairs)
        ]


def _text(prompt: Any, place: str) -> str:
    if isinstance(prompt, str):
        return prompt
    match prompt:
        case [{"role": "user", "content": str(text)}]:
            return text
        case [{"role": "system", "content": str(system)}, {"role": "user", "content": str(text)}]:
            return f"{system}\n\n{text}"
    raise ValueError(f"{place}: column 'prompt' must be text or one user message, got {str(prompt)[:80]!r}")
