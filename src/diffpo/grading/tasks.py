"""The graded tasks."""

from __future__ import annotations

from diffpo.grading import countdown, maths, sudoku

GRADED = {
    "gsm8k": maths.GSM8K,
    "math500": maths.MATH500,
    "countdown_cd3": countdown.TASK,
    "countdown": countdown.TASK,
    "sudoku_4x4": sudoku.TASK,
    "sudoku": sudoku.TASK,
}
"""By name of the task; the tiny tasks' problems are graded as the published ones when they are saved."""
