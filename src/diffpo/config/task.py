"""What is asked, and how it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import check, check_kinds
from diffpo.config.idle import Idle, Knobs, refuse_idle

TASK_KNOBS = {
    **dict.fromkeys(("tiny_sudoku", "tiny_countdown", "tiny_arithmetic", "tiny_steps"), "easy hard hard_share"),
    **dict.fromkeys(("gsm8k", "math500", "countdown_cd3", "sudoku_4x4"), "rules data test_data reward overlong"),
    "reasoning_gym": "reward kinds",
    "own": "data test_data reward overlong",
}
"""The knobs that each task reads beside the seed."""
EVERY_KNOB = " ".join(dict.fromkeys(" ".join(TASK_KNOBS.values()).split()))
"""The knobs that some task reads."""


@dataclass(frozen=True)
class TaskConfig(Knobs):
    """What is asked."""

    name: str = ""
    """gsm8k, math500, countdown_cd3, sudoku_4x4, reasoning_gym:NAME; tiny_sudoku, tiny_countdown, tiny_arithmetic,
    tiny_steps; a diffpo.Task of your own, PATH.py:CLASS. Empty: your own, of data and reward, or what the model was
    trained on."""
    easy: tuple[int, int] | None = None
    """Difficulty range of easy prompts (Sudoku: blanks, Countdown: numbers, arithmetic: terms, or steps). None: the
    task's own."""
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
    """What becomes of a row whose prompt and canvas the model cannot hold."""
    kinds: Literal["all", "known", "new"] | tuple[int, ...] = "all"
    """Which kinds of problems, where a data set has many (gsm_symbolic): a tenth of them are new, the others known; or
    some by number."""
    reward: tuple[str, ...] = ()
    """Your own rewards, PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT; number, math, code and format are built in, and
    task is the task's own verdict."""

    def __post_init__(self) -> None:
        check_kinds(self, "task.")
        check(0 <= self.hard_share <= 1, f"task.hard_share must lie in [0, 1], got {self.hard_share}")
        for name, span in (("easy", self.easy), ("hard", self.hard)):
            check(span is None or 1 <= span[0] <= span[1], f"task.{name} must be a range LOW HIGH, got {span}")
        for name in ("data", "test_data", "kinds"):
            check(getattr(self, name) not in ("", ()), f"task.{name} is empty: leave it out, or name some")
        if not self.name and self.data and self.reward:  # rows and rewards make a task
            object.__setattr__(self, "name", "own")
        half = not self.name and (self.data or self.reward)
        check(not half, "a task of your own takes both task.data and task.reward; others are named with task.name")
        refuse_idle(self, "task.")

    def idle(self) -> Idle:
        kind = self.name.partition(":")[0]
        knobs = TASK_KNOBS.get(kind, EVERY_KNOB)
        others = {name for name in EVERY_KNOB.split() if name not in knobs.split()}
        generated = kind in ("countdown_cd3", "sudoku_4x4") and not (self.data or self.test_data)
        return {
            **dict.fromkeys(
                sorted(others), f"for {self.name}, which takes {knobs} (rows and rewards of your own: name own)"
            ),
            **({"rules": "beside task.reward"} if self.reward and "rules" not in others else {}),
            **({"overlong": f"for {self.name}, whose prompts are generated"} if generated else {}),
        }
