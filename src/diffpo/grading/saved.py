"""Saved completions, a JSON object a line: `question`, `generation` and `ground_truth`, and their grades."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffpo.config import suggest
from diffpo.grading import d1_rewards, graders
from diffpo.grading.graders import Graded

Grader = Callable[[Mapping[str, Any], str], Graded]


def _shared(table: Mapping[str, Grader]) -> Mapping[str, Grader]:
    """The graders of a rule set; the tiny tasks' problems are graded as the published ones."""
    return {**table, "countdown": table["countdown_cd3"], "sudoku": table["sudoku_4x4"]}


RULES: dict[str, Mapping[str, Grader]] = {
    "strict": _shared(graders.GRADERS),
    "d1": _shared(d1_rewards.GRADERS),
}


def read_saved(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows; ValueError names the file and the line of one that is no JSON object."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: a row is an object with keys, got {line.strip()[:40]!r}")
            yield number, row


def grade_saved(path: str | Path, task: str, rules: str = "strict") -> Iterator[tuple[int, dict[str, Any], Graded]]:
    """Line number, row and grade of each saved completion; ValueError names the file and the line of a bad row."""
    if task not in COLUMNS:
        raise ValueError(f"unknown task {task!r}{suggest(task, COLUMNS)}")
    for number, row in read_saved(path):
        try:
            graded = grade_row(task, rules, row)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        yield number, row, graded


def grade_row(task: str, rules: str, row: Mapping[str, Any]) -> Graded:
    """The grade of a saved completion by "strict" or "d1" rules; ValueError says which column is missing or wrong."""
    for name in ("question", "generation"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"column {name!r} must be text, got {row.get(name)!r}{_present(row, name)}")
    if "ground_truth" not in row:
        raise ValueError(f"column 'ground_truth' is missing{_present(row, 'ground_truth')}")
    return RULES[rules][task](COLUMNS[task](row["question"], row["ground_truth"]), row["generation"])


def _present(row: Mapping[str, Any], name: str) -> str:
    return "" if name in row else f"; the row has {', '.join(map(str, row)) or 'no columns'}"


def _gsm8k(question: str, truth: Any) -> dict[str, Any]:
    """A number, a text that has one after ####, or null: d1's files lose negative references, which no answer meets."""
    if isinstance(truth, bool) or not isinstance(truth, int | float | str | None):
        raise ValueError(f"ground_truth must be a number, got {truth!r}")
    answer = str(truth).rpartition("####")[2].strip()
    return {"question": question, "answer": answer.removesuffix(".0")}


def _math500(question: str, truth: Any) -> dict[str, Any]:
    if isinstance(truth, bool) or not isinstance(truth, int | float | str):
        raise ValueError(f"ground_truth must be an answer in text, got {truth!r}")
    return {"problem": question, "answer": str(truth)}


def _countdown(question: str, truth: Any) -> dict[str, Any]:
    match truth:
        case [[*numbers], int(target)] if numbers and all(type(number) is int for number in numbers):
            return {"numbers": numbers, "target": target}
    raise ValueError(f"ground_truth must be [[numbers ...], target], got {truth!r}")


def _sudoku(question: str, truth: Any) -> dict[str, Any]:
    puzzle = re.search(r"(?<![0-9])[0-4]{16}(?![0-9])", question)
    if puzzle is None:
        raise ValueError(f"question must hold the puzzle, 16 digits from 0 to 4, got {question[:60]!r}")
    if not isinstance(truth, str) or not re.fullmatch("[1-4]{16}", truth):
        raise ValueError(f"ground_truth must be 16 digits from 1 to 4, got {truth!r}")
    return {"puzzle": puzzle[0], "solution": truth}


COLUMNS: dict[str, Callable[[str, Any], dict[str, Any]]] = {
    "gsm8k": _gsm8k,
    "math500": _math500,
    "countdown_cd3": _countdown,
    "countdown": _countdown,
    "sudoku_4x4": _sudoku,
    "sudoku": _sudoku,
}
"""The columns of a prompt from a saved row's question and ground_truth."""
