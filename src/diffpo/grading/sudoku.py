"""4x4 Sudoku: a grid of 16 digits that keeps the puzzle's clues."""

from __future__ import annotations

import re
from typing import Any

from diffpo.grading import d1_rewards
from diffpo.grading.answers import final_answer
from diffpo.grading.grade import Columns, Graded, GradedTask, formatted
from diffpo.grading.spelling import plain_signs

NUM_CELLS = 16
_FRAME = re.compile(
    r"\A(?:4x4|[^0-9:\n])*:|```[a-z]*|(?i:\br(?:ow)?\s*[1-4]\s*[-:.)])"
    r"|\\(?:begin|end)\{[a-z]*\}(?:\{[clr|\s]*\})?|\\hline|[\u2500-\u257f]"
)
"""What leads in, fences, names of rows, LaTeX's arrays, lines drawn by characters."""
_NUMBER = re.compile(r"^\s*\(?[1-4][.:)]\s", re.MULTILINE)
"""The number of a row before it."""


def strict(columns: Columns, completion: str) -> Graded:
    """Rewards the share of blanks filled right in a whole grid that keeps its clues; right if that is all of them."""
    puzzle, solution = str(columns["puzzle"]), str(columns["solution"])
    answer = final_answer(completion)
    grid = read_grid(answer or "")
    blanks = [cell for cell, clue in enumerate(puzzle) if clue == "0"]
    keeps_clues = len(grid) == NUM_CELLS and all(clue in ("0", digit) for clue, digit in zip(puzzle, grid, strict=True))
    filled = sum(grid[cell] == solution[cell] for cell in blanks) if keeps_clues else 0
    correct = keeps_clues and filled == len(blanks)
    share = filled / max(1, len(blanks))
    parts = {"correct": float(correct), "blanks": share, "format": float(formatted(completion))}
    return Graded(grid or answer or "", correct, share, parts)


def read_grid(answer: str) -> str:
    """The 16 digits of a grid, however they are spaced, ruled, fenced or numbered; "" if they are not 16."""
    text = _FRAME.sub(" ", plain_signs(answer[-1000:]))
    if re.fullmatch(r"[0-4\s|/,;:.+\-_\[\](){}'\"`*&\\]*", text):
        found = {re.sub(r"[^0-4]", "", grid) for grid in (text, _NUMBER.sub(" ", text))}
    else:
        found = set(re.findall(r"(?<![0-9])[0-4]{16}(?![0-9])", text))
    grids = [digits for digits in found if len(digits) == NUM_CELLS]
    return grids[0] if len(grids) == 1 else ""


def columns(question: str, truth: Any) -> dict[str, Any]:
    """The 16 digits of the solution; the question holds the puzzle."""
    puzzle = re.search(r"(?<![0-9])[0-4]{16}(?![0-9])", question)
    if puzzle is None:
        raise ValueError(f"question must hold the puzzle, 16 digits from 0 to 4, got {question[:60]!r}")
    if not isinstance(truth, str) or not re.fullmatch("[1-4]{16}", truth):
        raise ValueError(f"ground_truth must be 16 digits from 1 to 4, got {truth!r}")
    return {"puzzle": puzzle[0], "solution": truth}


TASK = GradedTask(strict, d1_rewards.sudoku, columns)
