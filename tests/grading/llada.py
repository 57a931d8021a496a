"""LLaDA-8B-Instruct's answers at 256 tokens with the verdicts of d1's parser, where they are at hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FOLDER = Path(__file__).parents[3] / "shared/data/llada_8b_instruct_generations"
FILES = {
    "gsm8k": "gsm8k_256.jsonl",
    "math500": "math500_256.jsonl",
    "countdown_cd3": "countdown_256.jsonl",
    "sudoku_4x4": "sudoku_256.jsonl",
}
needs_llada = pytest.mark.skipif(not FOLDER.is_dir(), reason="LLaDA's generations are not at hand")


class Row(NamedTuple):
    """A saved completion, the columns of its prompt, and d1's verdict: for sudoku the cells that are right."""

    columns: dict[str, Any]
    completion: str
    d1: int


def rows(task: str) -> list[Row]:
    found = map(json.loads, (FOLDER / FILES[task]).read_text().splitlines())
    return [
        Row(columns(task, row), row["generation"], int(row.get("d1_correct", row.get("d1_correct_cells"))))
        for row in found
    ]


def columns(task: str, row: dict[str, Any]) -> dict[str, Any]:
    truth, question = row["ground_truth"], row["question"]
    return {
        "gsm8k": lambda: {"question": question, "answer": None if truth is None else str(truth).removesuffix(".0")},
        "math500": lambda: {"problem": question, "answer": truth},
        "countdown_cd3": lambda: {"numbers": truth[0], "target": truth[1]},
        "sudoku_4x4": lambda: {"puzzle": re.findall("[0-9]{16}", question)[0], "solution": truth},
    }[task]()
