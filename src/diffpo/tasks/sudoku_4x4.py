"""4x4 Sudoku as d1 has it: a puzzle in 16 characters, solved in the form of a chat."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from diffpo.config import TaskConfig
from diffpo.grading.sudoku import GRIDS, keeps_clues
from diffpo.tasks.base import Split
from diffpo.tasks.chat import NUM_TEST, RowTask, message, solved_form
from diffpo.tasks.data import Row, column
from diffpo.tasks.stream import index_rng
from diffpo.tasks.tiny_sudoku import GRID_SET, TinySudoku, draw_puzzle
from diffpo.types import Prompt

NUM_BLANKS = 8
"""Blanks of a generated puzzle, as of every puzzle of d1's test set."""
SUBSET_SEED = 42
"""d1 evaluates on NUM_TEST of its 500 test puzzles; NumPy's legacy generator with this seed chooses them."""


class Sudoku4x4(RowTask):
    """Training puzzles are generated, or rows of task.data; test ones are 256 generated ones, or of task.test_data.

    A generated training puzzle never has a test puzzle's solution; d1's own training and test puzzles share many.
    """

    columns = "Puzzle and Solution, 16 digits row by row, 0 for a blank"

    def read(self, row: Row) -> Prompt:
        """A puzzle with its solution, which must be a grid with the puzzle's clues."""
        puzzle = str(column(row, ["Puzzle", "puzzle"]))
        solution = str(column(row, ["Solution", "solution"]))
        if not re.fullmatch("[0-4]{16}", puzzle) or solution not in GRID_SET:
            raise ValueError(f"{row.place}: Puzzle must be 16 digits, Solution a grid, got {puzzle!r} and {solution!r}")
        if not keeps_clues(puzzle, solution):
            raise ValueError(f"{row.place}: the solution {solution} does not have the clues of {puzzle}")
        return self._message(puzzle, solution)

    @staticmethod
    def _message(puzzle: str, solution: str) -> Prompt:
        ask = (
            "Fill in a 4x4 Sudoku. It is written as 16 digits, row after row, each row from left to right; 0 is an "
            "empty cell. In the solution every row, every column and each of the four 2x2 corners holds 1, 2, 3 and 4 "
            "once, and the given digits stay where they are. Answer with the 16 digits of the whole solution, nothing "
            "between them."
        )
        form, problem = "(16 digits from 1 to 4)", f"Puzzle: {puzzle}"
        return message(ask, form, problem, puzzle=puzzle, solution=solution)

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

    def draw(self, split: Split, index: int) -> Prompt:
        """A puzzle with one solution; of training one that no test puzzle has."""
        rng = index_rng(self.name, self.config.seed, split, index)
        grid = rng.choice(self._grids[split])
        return self._message(draw_puzzle(grid, NUM_BLANKS, rng), GRIDS[grid])

    @cached_property
    def _grids(self) -> dict[str, list[int]]:
        """Grids by split: of training those that no row of task.test_data has, at least 288 - 256 of them."""
        grids = TinySudoku(TaskConfig(name="tiny_sudoku", seed=self.config.seed)).grids
        if not self.config.test_data:
            return grids
        tested = self._tested("solution")
        return grids | {"train": [index for index, grid in enumerate(GRIDS) if grid not in tested]}

    def _tested(self, name: str) -> set[object]:
        return {prompt.columns[name] for prompt in self.rows("test")} if self.config.test_data else set()
