"""4x4 Sudoku: a grid of 16 digits that keeps the puzzle's clues, and has each digit once in a row, column and box."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import permutations
from typing import Any

from diffpo.grading import d1_rewards
from diffpo.grading.answers import final_answer
from diffpo.grading.grade import Columns, Graded, GradedTask, formatted
from diffpo.grading.spelling import plain_signs

NUM_CELLS = 16
_FRAME = re.compile(
    r"\A(?:4x4|[^0-9:=\n])*[:=]|```[a-z]*|(?i:\br(?:ow)?\s*[1-4]\s*[-:.)=]|\b(?:first|second|third|fourth) row\s*:)"
    r"|\b[A-D]:|</?[a-z]+>|\\n"
    r"|\\(?:begin|end)\{[a-z]*\}(?:\{[clr|\s]*\})?|\\hline|[\u2500-\u257f]"
)
"""What leads in, fences, names of rows, LaTeX's arrays, lines drawn by characters."""
_NUMBER = re.compile(r"^\s*\(?[1-4][.:)]\s", re.MULTILINE)
"""The number of a row before it."""


def _all_grids() -> list[str]:
    """The 288 grids, built row by row."""
    rows = ["".join(row) for row in permutations("1234")]
    grids = [""]
    for _ in range(4):
        grids = [grid + row for grid in grids for row in rows if _is_consistent(grid + row)]
    return grids


def _is_consistent(cells: str) -> bool:
    """Whether no column and no box of these leading rows holds a digit twice."""
    columns = [cells[column::4] for column in range(4)]
    boxes = [cells[i : i + 2] + cells[i + 4 : i + 6] for i in (0, 2, 8, 10)]
    return all(len(set(unit)) == len(unit) for unit in columns + boxes)


GRIDS = _all_grids()


def keeps_clues(puzzle: str, grid: str) -> bool:
    """Whether a grid has the digits of a puzzle, of which 0 is a blank."""
    return len(grid) == NUM_CELLS and all(clue in ("0", digit) for clue, digit in zip(puzzle, grid, strict=True))


@lru_cache(maxsize=4096)
def solutions_of(puzzle: str) -> list[str]:
    """All grids that solve a puzzle: of d1's 500 test puzzles 124 have more than one."""
    return [grid for grid in GRIDS if keeps_clues(puzzle, grid)]


def strict(columns: Columns, completion: str) -> Graded:
    """Rewards the share of blanks filled as in a solution, the nearest one, in a whole grid that keeps its clues.

    Right if that is all of them.
    """
    puzzle, listed = str(columns["puzzle"]), str(columns["solution"])
    answer = final_answer(completion)
    grid = read_grid(answer or "")
    blanks = [cell for cell, clue in enumerate(puzzle) if clue == "0"]
    kept = keeps_clues(puzzle, grid)
    solutions = [listed, *solutions_of(puzzle)] if kept else []
    filled = max((sum(grid[cell] == right[cell] for cell in blanks) for right in solutions), default=0)
    correct = kept and filled == len(blanks)
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
