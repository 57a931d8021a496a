"""What is asked, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import check, check_kinds

TASK_KNOBS = {
    **dict.fromkeys(("tiny_sudoku", "tiny_countdown", "tiny_arithmetic"), "easy hard hard_share"),
    **dict.fromkeys(("gsm8k", "math500", "countdown_cd3", "sudoku_4x4"), "rules data test_data reward overlong"),
    "reasoning_gym": "reward",
    "own": "data test_data reward overlong",
}
"""The knobs that each task reads beside the seed."""


@dataclass(frozen=True)
class TaskConfig:
    """What is asked."""

    name: str = "tiny_sudoku"
    """gsm8k, math500, countdown_cd3, sudoku_4x4, reasoning_gym:NAME; tiny_sudoku, tiny_countdown, tiny_arithmetic."""
    easy: tuple[int, int] | None = None
    """Difficulty range of easy prompts (Sudoku: blanks, Countdown: numbers, arithmetic: terms). None: task's own."""
    hard: tuple[int, int] | None = None  # difficulty range of hard prompts, on the same dial. None: the task's own
    hard_share: float = 0.5  # share of hard prompts
    seed: int = 0  # seed of the task's data and of its train / test split
    rules: Literal["strict", "d1"] = "strict"
    """Grader and reward: ours, or d1's as published, quirks included (docs/grading.md)."""
    data: str | None = None
    """Training rows: a file, a pattern of files, or a data set of the Hugging Face hub. None: the task's own."""
    test_data: str | None = None
    """Test rows, likewise. None: the task's own, or a tenth of the rows of a task of your own."""
    overlong: Literal["error", "drop"] = "error"
    """What becomes of a row whose prompt and completion the model cannot hold."""
    reward: tuple[str, ...] = ()
    """Your own rewards, PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT; number, math and code are built in."""

    def __post_init__(self) -> None:
        check_kinds(self, "task.")
        check(0 <= self.hard_share <= 1, f"task.hard_share must lie in [0, 1], got {self.hard_share}")
        for name, span in (("easy", self.easy), ("hard", self.hard)):
            check(span is None or 1 <= span[0] <= span[1], f"task.{name} must be a range LOW HIGH, got {span}")
        if self.name == "tiny_sudoku" and self.data and self.reward:  # the default name: rows and rewards make a task
            object.__setattr__(self, "name", "own")
        one = self.name == "tiny_sudoku" and (self.data or self.reward)
        check(not one, "a task of your own takes both task.data and task.reward; others are named with task.name")
        knobs = TASK_KNOBS.get(self.name.partition(":")[0])
        for name in sorted({*" ".join(TASK_KNOBS.values()).split()} - {*(knobs or "").split()}) if knobs else ():
            unset = getattr(self, name) == getattr(TaskConfig, name)
            check(unset, f"task.{name} does nothing for {self.name}, which takes {knobs} (your own: data and reward)")
        check(not self.reward or self.rules == "strict", "task.rules does nothing beside task.reward: drop one")
