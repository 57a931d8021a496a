"""4x4 Sudoku: fill the blanks of a grid so that every row, column and 2x2 box holds 1 to 4."""

from __future__ import annotations

from random import Random

import numpy as np

from diffpo.config import TaskConfig
from diffpo.grading.sudoku import GRIDS, NUM_CELLS, keeps_clues
from diffpo.tasks.base import Split, TinyTask
from diffpo.tasks.stream import Dial, index_rng, stable_key
from diffpo.types import Prompt, Verdict

NUM_TRAIN_GRIDS = 200
MAX_BLANKS = 12
"""No puzzle with fewer than four clues has a unique solution."""
NUM_TRIES = 16
"""Sets of clues tested at once for uniqueness; at 10 blanks about four in ten pass."""

GRID_SET = frozenset(GRIDS)
_CELLS = np.array([list(grid) for grid in GRIDS])
DIFFERENCES = ((_CELLS[:, None] != _CELLS[None]) << np.arange(NUM_CELLS)).sum(-1)
"""[288, 288] sets of cells, one bit a cell, where two grids differ."""
CLUES = [[clues for clues in range(2**NUM_CELLS) if clues.bit_count() == NUM_CELLS - n] for n in range(NUM_CELLS + 1)]
"""CLUES[n]: every set of clue cells, one bit a cell, that leaves n blanks."""


class TinySudoku(TinyTask):
    """Puzzles with one solution each, so that a train puzzle never has a test grid. The dial counts blanks."""

    name = "tiny_sudoku"
    alphabet = "01234="
    gen_length = NUM_CELLS

    def __init__(self, config: TaskConfig) -> None:
        self.seed = config.seed
        self.dial = Dial.from_config(config, easy=(2, 5), hard=(8, 10), limits=(1, MAX_BLANKS))
        order = Random(stable_key("sudoku grids", config.seed)).sample(range(len(GRIDS)), len(GRIDS))
        self.grids = {"train": order[:NUM_TRAIN_GRIDS], "test": order[NUM_TRAIN_GRIDS:]}

    def draw(self, split: Split, index: int) -> Prompt:
        """16 cells row by row, 0 for a blank, then "="."""
        # "sudoku", here and in the id, keys the draws: another word would be another data set
        rng = index_rng("sudoku", self.seed, split, index)
        level, num_blanks = self.dial.draw(rng)
        grid = rng.choice(self.grids[split])
        puzzle = draw_puzzle(grid, num_blanks, rng)
        return Prompt(f"sudoku-{split}-{index}", puzzle + "=", level, {"puzzle": puzzle, "solution": GRIDS[grid]})

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Right if it is a valid grid that keeps the clues; "blanks", the share of blanks filled right, is logged."""
        puzzle, solution = str(prompt.columns["puzzle"]), self.solution(prompt)
        answer = "".join(completion.split())
        if len(answer) != NUM_CELLS or not set(answer) <= set("1234"):
            return Verdict(correct=False, reward=0.0, parts={"correct": 0.0, "blanks": 0.0})
        correct = float(keeps_clues(puzzle, answer) and answer in GRID_SET)
        filled = [digit == right for clue, digit, right in zip(puzzle, answer, solution, strict=True) if clue == "0"]
        parts = {"correct": correct, "blanks": sum(filled) / max(1, len(filled))}
        return Verdict(bool(correct), reward=correct, parts=parts)

    def open_positions(self, prompt: Prompt) -> list[int]:
        """The blanks."""
        return [cell for cell, clue in enumerate(str(prompt.columns["puzzle"])) if clue == "0"]


def draw_puzzle(grid: int, num_blanks: int, rng: Random) -> str:
    """A puzzle of grid number `grid`, its clues uniform among those on which no other grid agrees with it."""
    while True:
        tries = np.array(rng.choices(CLUES[num_blanks], k=NUM_TRIES))
        num_solutions = (DIFFERENCES[grid] & tries[:, None] == 0).sum(1)
        unique = tries[num_solutions == 1]
        if len(unique):
            return "".join(digit if unique[0] >> cell & 1 else "0" for cell, digit in enumerate(GRIDS[grid]))
