"""The graded tasks: a file and a line for each."""

from __future__ import annotations

from diffpo.grading import countdown, gsm8k, math500, sudoku

GRADED = {
    "gsm8k": gsm8k.TASK,
    "math500": math500.TASK,
    "countdown_cd3": countdown.TASK,
    "countdown": countdown.TASK,
    "sudoku_4x4": sudoku.TASK,
    "sudoku": sudoku.TASK,
}
"""By name of the task; the tiny tasks' problems are graded as the published ones when they are saved."""
