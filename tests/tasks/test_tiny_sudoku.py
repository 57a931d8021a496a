"""4x4 Sudoku against brute force."""

from __future__ import annotations

import time
from itertools import product
from random import Random

import numpy as np
import pytest

from diffpo.config import TaskConfig
from diffpo.grading.sudoku import GRIDS, solutions_of
from diffpo.tasks.base import Split
from diffpo.tasks.tiny_sudoku import CLUES, DIFFERENCES, MAX_BLANKS, NUM_TRAIN_GRIDS, TinySudoku
from diffpo.types import Prompt

PUZZLE = Prompt(
    "hand-made", "1030340220404321=", columns={"puzzle": "1030340220404321", "solution": "1234341221434321"}
)


def is_valid(grid: str) -> bool:
    """Rows, columns and boxes, cell by cell."""
    units = [[(i, j) for j in range(4)] for i in range(4)] + [[(i, j) for i in range(4)] for j in range(4)]
    units += [[(2 * a + i, 2 * b + j) for i, j in product(range(2), repeat=2)] for a, b in product(range(2), repeat=2)]
    return all(sorted(grid[4 * i + j] for i, j in unit) == list("1234") for unit in units)


def solutions(puzzle: str) -> list[str]:
    """Every filling of the blanks that is a valid grid, by plain backtracking."""
    cell = puzzle.find("0")
    if cell < 0:
        return [puzzle] if is_valid(puzzle) else []
    row, column = divmod(cell, 4)
    box = [4 * i + j for i in range(4) for j in range(4) if (i // 2, j // 2) == (row // 2, column // 2)]
    peers = {puzzle[4 * row + i] for i in range(4)} | {puzzle[4 * i + column] for i in range(4)}
    peers |= {puzzle[other] for other in box}
    filled = [puzzle[:cell] + digit + puzzle[cell + 1 :] for digit in "1234" if digit not in peers]
    return [grid for puzzle in filled for grid in solutions(puzzle)]


def test_all_grids() -> None:
    assert sorted(GRIDS) == sorted(solutions("0" * 16))
    assert len(set(GRIDS)) == 288


def test_all_solutions_of_a_puzzle_are_found() -> None:
    rng = Random(0)
    for grid in GRIDS[::24]:
        puzzle = "".join(digit if rng.random() < 0.4 else "0" for digit in grid)
        assert solutions_of(puzzle) == solutions(puzzle)


@pytest.mark.parametrize("split", ["train", "test"])
def test_solution_is_unique(split: Split) -> None:
    task = TinySudoku(TaskConfig(easy=(2, 7), hard=(8, 12)))
    for prompt in task.prompts(split, 100):
        assert len(prompt.text) == 17 and prompt.text[-1] == "="
        assert solutions(prompt.text[:16]) == [task.solution(prompt)]


def test_grids_of_the_splits_are_disjoint() -> None:
    task = TinySudoku(TaskConfig())
    train = {task.solution(prompt) for prompt in task.prompts("train", 3000)}
    test = {task.solution(prompt) for prompt in task.prompts("test", 2000)}
    assert (len(train), len(test)) == (NUM_TRAIN_GRIDS, 288 - NUM_TRAIN_GRIDS)
    assert train.isdisjoint(test)


def test_split_depends_on_the_seed() -> None:
    assert set(TinySudoku(TaskConfig(seed=0)).grids["test"]) != set(TinySudoku(TaskConfig(seed=1)).grids["test"])


def test_dial_counts_blanks() -> None:
    blanks: dict[str, set[int]] = {"easy": set(), "hard": set()}
    for prompt in TinySudoku(TaskConfig()).prompts("train", 500):
        blanks[prompt.level].add(prompt.text.count("0"))
    assert blanks == {"easy": {2, 3, 4, 5}, "hard": {8, 9, 10}}


def test_every_grid_has_a_puzzle_at_the_limit_and_none_beyond() -> None:
    for grid in range(len(GRIDS)):
        for num_blanks in (MAX_BLANKS, MAX_BLANKS + 1):
            fits = DIFFERENCES[grid] & np.array(CLUES[num_blanks])[:, None] == 0
            assert (fits.sum(1) == 1).any() == (num_blanks == MAX_BLANKS)


@pytest.mark.parametrize(
    ("answer", "correct", "blanks"),
    [
        ("1234341221434321", True, 1.0),
        ("1234 3412\n2143 4321\n", True, 1.0),
        ("1234341221434312", False, 1.0),  # breaks a clue
        ("3234341221434321", False, 1.0),  # breaks the first clue
        ("1432341221434321", False, 0.6),  # two blanks swapped
        ("1111111111111111", False, 0.4),
        ("2143432112343412", False, 0.0),  # a valid grid of another puzzle
        ("123434122143432", False, 0.0),
        ("12343412214343211", False, 0.0),
        ("1030340220404321", False, 0.0),
        ("1234341221434325", False, 0.0),
        ("\u0661234341221434321", False, 0.0),
        ("1234341221434321=", False, 0.0),
        ("", False, 0.0),
    ],
)
def test_verdicts(answer: str, correct: bool, blanks: float) -> None:
    verdict = TinySudoku(TaskConfig()).verify(PUZZLE, answer)
    assert verdict.correct is correct
    assert verdict.reward == float(correct)
    assert verdict.parts["blanks"] == pytest.approx(blanks)


def test_any_valid_completion_counts() -> None:
    """A puzzle of another source may have several solutions; each that keeps the clues is right."""
    prompt = Prompt("open", "0" * 16 + "=", columns={"puzzle": "0" * 16, "solution": GRIDS[0]})
    assert all(TinySudoku(TaskConfig()).verify(prompt, grid).correct for grid in GRIDS)


def test_prompts_are_quick() -> None:
    """5,000 a second, so that pre-training's 20,000 take seconds: CPU time, the best of three."""
    task, times = TinySudoku(TaskConfig()), []
    for trial in range(3):
        start = time.process_time()
        task.prompts("train", 1000, start=1000 * trial)
        times.append(time.process_time() - start)
    assert min(times) < 0.2
