"""4x4 Sudoku as d1 has it: a puzzle in 16 characters, solved in the form of a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffpo.config import TaskConfig
from diffpo.tasks.base import Split
from diffpo.tasks.chat import PREFILL, RowTask, answer_form, solved_form
from diffpo.tasks.data import Row, column
from diffpo.tasks.stream import check_split, index_rng
from diffpo.tasks.tiny_sudoku import GRID_SET, GRIDS, TinySudoku, unique_clues
from diffpo.types import Prompt

NUM_BLANKS = 8
"""Blanks of a generated puzzle, as of every puzzle of d1's test set."""
NUM_TEST = 256
SUBSET_SEED = 42
"""d1 evaluates on 256 of its 500 test puzzles; NumPy's legacy generator with this seed chooses them."""


class Sudoku4x4(RowTask):
    """Training puzzles are generated, or rows of task.data; test ones are 256 generated ones, or of task.test_data.

    A generated training puzzle never has a test puzzle's solution; d1's own training and test puzzles share many.
    """

    columns = "Puzzle and Solution, 16 digits row by row, 0 for a blank"

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        split = TinySudoku(TaskConfig(name="tiny_sudoku", seed=config.seed)).grids
        self._grids: dict[Split, list[int]] = {"train": split["train"], "test": split["test"]}
        self._reserved = config.test_data is None

    def read(self, row: Row) -> Prompt:
        """A puzzle with its solution, which must be a grid with the puzzle's clues."""
        puzzle = str(column(row, ["Puzzle", "puzzle"]))
        solution = str(column(row, ["Solution", "solution"]))
        if not re.fullmatch("[0-4]{16}", puzzle) or solution not in GRID_SET:
            raise ValueError(f"{row.place}: Puzzle must be 16 digits, Solution a grid, got {puzzle!r} and {solution!r}")
        if any(clue not in ("0", digit) for clue, digit in zip(puzzle, solution, strict=True)):
            raise ValueError(f"{row.place}: the solution {solution} does not have the clues of {puzzle}")
        return self._message(puzzle, solution)

    @staticmethod
    def _message(puzzle: str, solution: str) -> Prompt:
        text = (
            "Fill in a 4x4 Sudoku. It is written as 16 digits, row after row, each row from left to right; 0 is an "
            "empty cell. In the solution every row, every column and each of the four 2x2 corners holds 1, 2, 3 and 4 "
            "once, and the given digits stay where they are. Answer with the 16 digits of the whole solution, nothing "
            f"between them.\n{answer_form('(16 digits from 1 to 4)')}\n\nPuzzle: {puzzle}"
        )
        return Prompt("", text, columns={"puzzle": puzzle, "solution": solution}, prefill=PREFILL)

    def solution(self, prompt: Prompt) -> str:
        """The grid row by row, then in one piece."""
        grid = str(prompt.columns["solution"])
        return solved_form("\n".join(grid[start : start + 4] for start in range(0, 16, 4)), grid)

    def choose(self, split: Split, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Of more than 256 test puzzles d1's choice; training rows without the test puzzles."""
        if split == "test" and len(prompts) > NUM_TEST:
            chosen = np.random.RandomState(SUBSET_SEED).choice(len(prompts), NUM_TEST, replace=False)
            prompts = [prompts[index] for index in sorted(chosen)]
        tested = self._tested("puzzle") if split == "train" else set()
        return [prompt for prompt in prompts if prompt.columns["puzzle"] not in tested]

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1 of the split's rows, or of its generated stream; test ones as far as they go."""
        check_split(split)
        if self.config.data if split == "train" else self.config.test_data:
            return super().prompts(split, num, start)
        stop = start + num if split == "train" else min(start + num, NUM_TEST)
        return [self._draw(split, index) for index in range(start, stop)]

    def _draw(self, split: Split, index: int) -> Prompt:
        rng = index_rng(self.name, self.config.seed, split, index)
        grid = rng.choice(self._free_grids(split))
        clues = unique_clues(grid, NUM_BLANKS, rng)
        puzzle = "".join(digit if clues >> cell & 1 else "0" for cell, digit in enumerate(GRIDS[grid]))
        return replace(self._message(puzzle, GRIDS[grid]), id=f"{self.name}-{split}-{index}")

    def _free_grids(self, split: Split) -> list[int]:
        """Grids of a split: of training those that no test puzzle has, at least 288 - 256 of them."""
        if not self._reserved:
            tested = self._tested("solution")
            self._grids["train"] = [index for index, grid in enumerate(GRIDS) if grid not in tested]
            self._reserved = True
        return self._grids[split]

    def _tested(self, name: str) -> set[object]:
        return {prompt.columns[name] for prompt in self.rows("test")} if self.config.test_data else set()
