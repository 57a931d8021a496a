"""The command that scores saved completions: grade."""

from __future__ import annotations

import json as json_lines
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from diffpo.config import TaskConfig

if TYPE_CHECKING:
    from diffpo.grading.grade import Graded


@dataclass(frozen=True)
class Grade:
    """Score saved completions: JSON lines with question, generation and ground_truth, or an evaluation's."""

    file: Positional[str]
    """File of JSON lines: question, generation, ground_truth; or a folder that `diffpo eval` wrote."""
    task: str
    """Task that the completions answer; countdown and sudoku of any size are graded as the published ones."""
    rules: Literal["strict", "d1"] = "strict"
    """Our grader, or d1's with its quirks (docs/grading.md)."""
    json: bool = False
    """Print each verdict as a line of JSON instead of the sum."""

    def run(self) -> None:
        from diffpo.grading.saved import grade_saved

        is_evaluation = Path(self.file).is_dir()
        found = (grade_evaluation if is_evaluation else grade_saved)(self.file, self.task, self.rules)
        sums: dict[str, list[Graded]] = defaultdict(list)
        for line, row, graded in found:
            sums[row["sampler"] if is_evaluation else ""].append(graded)
            if self.json:
                verdict = {"line": line, "correct": graded.correct, "reward": graded.reward, "answer": graded.answer}
                known = {name: row[name] for name in ("sampler", "id", "sample", "ground_truth") if name in row}
                print(json_lines.dumps({**verdict, **known, "parts": dict(graded.parts)}))
        if not sums:
            raise ValueError(f"{self.file}: no completions in it")
        if self.json:
            return
        for sampler, grades in sums.items():
            correct, total = sum(graded.correct for graded in grades), len(grades)
            cells = sum(graded.parts.get("cells", graded.parts.get("blanks", 0.0)) for graded in grades)
            share = f", {cells / total:.2%} of cells" if self.task.startswith("sudoku") else ""
            print(f"{sampler and sampler + ': '}correct {correct} / {total}, {correct / total:.2%}{share}")


def grade_evaluation(folder: str, task_name: str, rules: str) -> Iterator[tuple[int, dict[str, Any], Graded]]:
    """Line number, row and grade of each completion of an evaluation; its settings say where the references are."""
    from diffpo.files.recipe import from_dict, read_json
    from diffpo.grading.grade import Graded
    from diffpo.grading.saved import read_saved
    from diffpo.tasks import load_task

    if not (settings_file := Path(folder, "settings.json")).is_file():
        raise ValueError(f"{folder}: no settings.json in it, so no evaluation")
    settings = read_json(settings_file)
    knobs = {knob.name: settings[key] for knob in fields(TaskConfig) if (key := f"task.{knob.name}") in settings}
    config = from_dict(TaskConfig, knobs)
    if config.name != task_name:
        raise ValueError(f"{folder} answers {config.name}, not {task_name}")
    task = load_task(replace(config, rules=rules) if rules != config.rules else config)
    if task.rewards is not None:
        raise ValueError(
            f"{folder}: judged by rewards of its own ({', '.join(config.reward)}), which grade does not run"
        )
    rows = list(read_saved(Path(folder, "completions.jsonl")))
    ids = {row["id"] for _, row in rows}
    ends = (end for id in ids if (end := id.rpartition("-")[2]).isdecimal())  # of a task of the user's own any word
    count = max(len(ids), 1 + max(map(int, ends), default=-1))
    prompts = {prompt.id: prompt for prompt in task.prompts("test", count)}
    for line, row in rows:
        if row["id"] not in prompts:
            raise ValueError(f"{folder}/completions.jsonl, line {line}: {config.name} has no test prompt {row['id']!r}")
        verdict = task.verify(prompts[row["id"]], row["text"])
        yield line, row, Graded(verdict.answer or "", verdict.correct, verdict.reward or 0.0, verdict.parts)
