"""Saved completions, a JSON object a line: `question`, `generation` and `ground_truth`, and their grades."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffpo.config import suggest
from diffpo.files.folder import json_object
from diffpo.grading.grade import Graded
from diffpo.grading.tasks import GRADED


def read_saved(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows; ValueError names the file and the line of one that is no JSON object."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, json_object(line, f"{path}, line {number}")


def grade_saved(path: str | Path, task: str, rules: str = "strict") -> Iterator[tuple[int, dict[str, Any], Graded]]:
    """Line number, row and grade of each saved completion; ValueError names the file and the line of a bad row."""
    if task not in GRADED:
        raise ValueError(f"no graded task {task!r}{suggest(task, GRADED)}")
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
    graded = GRADED[task]
    grader = {"strict": graded.strict, "d1": graded.d1}[rules]
    return grader(graded.columns(row["question"], row["ground_truth"]), row["generation"])


def _present(row: Mapping[str, Any], name: str) -> str:
    return "" if name in row else f"; the row has {', '.join(map(str, row)) or 'no columns'}"
