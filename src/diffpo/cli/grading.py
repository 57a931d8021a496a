"""The command that scores saved completions: grade."""

from __future__ import annotations

import json as json_lines
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional


@dataclass(frozen=True)
class Grade:
    """Score saved completions: JSON lines with question, generation and ground_truth."""

    file: Positional[str]
    """File of JSON lines: question, generation, ground_truth."""
    task: str
    """Task that the completions answer; countdown and sudoku of any size are graded as the published ones."""
    rules: Literal["strict", "d1"] = "strict"
    """Our grader, or d1's with its quirks (docs/grading.md)."""
    json: bool = False
    """Print each verdict as a line of JSON instead of the sum."""

    def run(self) -> None:
        from diffpo.grading.saved import grade_saved

        correct = total = 0
        cells = 0.0
        for line, row, graded in grade_saved(self.file, self.task, self.rules):
            correct, total = correct + graded.correct, total + 1
            cells += graded.parts.get("cells", graded.parts.get("blanks", 0.0))
            if self.json:
                verdict = {"line": line, "correct": graded.correct, "reward": graded.reward, "answer": graded.answer}
                print(json_lines.dumps({**verdict, "ground_truth": row["ground_truth"], "parts": dict(graded.parts)}))
        if not total:
            raise ValueError(f"{self.file}: no completions in it")
        if not self.json:
            share = f", {cells / total:.2%} of cells" if self.task.startswith("sudoku") else ""
            print(f"correct {correct} / {total}, {correct / total:.2%}{share}")
