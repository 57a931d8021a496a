"""diffpo grade: sums, verdicts as JSON lines, and rows that are wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from grading.llada import FILES, FOLDER, needs_llada

from diffpo.cli import main
from diffpo.config import TaskConfig
from diffpo.grading.saved import grade_row

GRID = "3142243142131324"
GOOD: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "q", "generation": r"\boxed{18}", "ground_truth": 18.0},
    "math500": {"question": "q", "generation": r"\boxed{\frac12}", "ground_truth": "0.5"},
    "countdown_cd3": {"question": "q", "generation": r"\boxed{1+2+3}", "ground_truth": [[3, 2, 1], 6]},
    "sudoku_4x4": {
        "question": f"Solve: {GRID[:8]}00000000",
        "generation": f"<answer>{GRID}</answer>",
        "ground_truth": GRID,
    },
}


def write(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("task", GOOD)
@pytest.mark.parametrize("rules", ["strict", "d1"])
def test_the_sum_is_printed(task: str, rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**GOOD[task], "generation": "<answer>no</answer>"}
    main(["grade", write(tmp_path / "a.jsonl", GOOD[task], wrong), "--task", task, "--rules", rules])
    cells = ", 50.00% of cells" if task == "sudoku_4x4" else ""
    assert capsys.readouterr().out == f"correct 1 / 2, 50.00%{cells}\n"


def test_verdicts_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["grade", write(tmp_path / "a.jsonl", "", GOOD["gsm8k"]), "--task", "gsm8k", "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "line": 2,
        "correct": True,
        "reward": 1.0,
        "answer": "18",
        "ground_truth": 18.0,
        "parts": {"correct": 1.0, "format": 0.0},
    }


@pytest.mark.parametrize(
    ("task", "row", "error"),
    [
        ("gsm8k", "{", "not JSON"),
        ("gsm8k", [1], "a row is an object with keys, got '[1]'"),
        ("gsm8k", {}, "column 'question' must be text, got None; the row has no columns"),
        (
            "gsm8k",
            {"question": "q", "completion": "x"},
            "column 'generation' must be text, got None; the row has question",
        ),
        ("gsm8k", {"question": "q", "generation": "x"}, "column 'ground_truth' is missing; the row has question"),
        ("gsm8k", {**GOOD["gsm8k"], "ground_truth": [1]}, "a reference must be an answer in text or a number, got [1]"),
        (
            "math500",
            {**GOOD["math500"], "ground_truth": None},
            "a reference must be an answer in text or a number, got None",
        ),
        ("countdown_cd3", GOOD["gsm8k"], "ground_truth must be [[numbers ...], target], got 18.0"),
        (
            "countdown_cd3",
            {**GOOD["gsm8k"], "ground_truth": [["1"], 1]},
            "ground_truth must be [[numbers ...], target]",
        ),
        (
            "countdown_cd3",
            {**GOOD["gsm8k"], "ground_truth": [[1], True]},
            "ground_truth must be [[numbers ...], target]",
        ),
        ("sudoku_4x4", GOOD["gsm8k"], "question must hold the puzzle, 16 digits from 0 to 4, got 'q'"),
        (
            "sudoku_4x4",
            {**GOOD["sudoku_4x4"], "ground_truth": "1"},
            "ground_truth must be 16 digits from 1 to 4, got '1'",
        ),
    ],
)
def test_a_malformed_row_is_named(
    task: str, row: object, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.jsonl", GOOD[task], row)
    with pytest.raises(SystemExit) as ended:
        main(["grade", path, "--task", task])
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == ""
    assert said.err.startswith(f"diffpo: {path}, line 2: ") and error in said.err and said.err.count("\n") == 1


def test_a_file_without_rows_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, error in ((write(tmp_path / "a.jsonl"), "no completions in it"), (str(tmp_path / "b"), "no such file")):
        with pytest.raises(SystemExit):
            main(["grade", path, "--task", "gsm8k"])
        assert capsys.readouterr().err == f"diffpo: {path}: {error}\n"


@pytest.mark.parametrize(
    ("truth", "right"), [("#### 1,018", "1018"), ("1018", "1,018"), (18, "18"), (6.5, "6.5"), (-3.0, "-3")]
)
def test_numbers_of_gsm8k(truth: object, right: str) -> None:
    row = {"question": "q", "generation": rf"\boxed{{{right}}}", "ground_truth": truth}
    assert grade_row("gsm8k", "strict", row).correct


def test_a_lost_reference_is_met_by_nothing() -> None:
    for answer in ("-10", "None", "nan"):
        row = {"question": "q", "generation": rf"\boxed{{{answer}}}", "ground_truth": None}
        assert not grade_row("gsm8k", "strict", row).correct and not grade_row("gsm8k", "d1", row).correct


def evaluation(folder: Path) -> Path:
    """What diffpo eval writes of two answers of two samplers to a problem."""
    folder.mkdir()
    rows = write(folder / "rows.jsonl", {"question": "q", "answer": "#### 18"})
    config = dataclasses.asdict(TaskConfig(name="gsm8k", test_data=rows))
    (folder / "settings.json").write_text(json.dumps({f"task.{name}": value for name, value in config.items()}))
    answer = {"id": "gsm8k-test-0", "sample": 0, "text": r"so \boxed{18.0}"}
    write(folder / "completions.jsonl", {**answer, "sampler": "eb"}, {**answer, "sampler": "steps:8", "text": "18"})
    return folder


@pytest.mark.parametrize("rules", ["strict", "d1"])
def test_an_evaluation_is_graded_anew(rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(evaluation(tmp_path / "eval"))
    main(["grade", folder, "--task", "gsm8k", "--rules", rules])
    assert capsys.readouterr().out == "eb: correct 1 / 1, 100.00%\nsteps:8: correct 0 / 1, 0.00%\n"
    main(["grade", folder, "--task", "gsm8k", "--rules", rules, "--json"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["sampler"], first["id"], first["correct"]) == ("eb", "gsm8k-test-0", True) and not second["correct"]


def test_an_evaluation_of_a_task_of_ones_own_from_before_a_knob(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(
        "from diffpo.tasks.base import Task\nfrom diffpo.types import Prompt, Verdict\n"
        "class Mine(Task):\n    name, gen_length = 'mine', 8\n    def __init__(self, config): pass\n"
        "    def prompts(self, split, num, start=0): return [Prompt(w, w) for w in ('red', 'blue')[start:][:num]]\n"
        "    def verify(self, prompt, completion): return Verdict(completion == prompt.text, 0.0, {})\n"
    )
    name = f"{tmp_path / 'own.py'}:Mine"
    settings = {f"task.{knob}": value for knob, value in dataclasses.asdict(TaskConfig(name=name)).items()}
    del settings["task.kinds"]
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    answers = [{"sampler": "eb", "id": word, "sample": 0, "text": "red"} for word in ("red", "blue")]
    write(tmp_path / "completions.jsonl", *answers)
    main(["grade", str(tmp_path), "--task", name])
    assert capsys.readouterr().out == "eb: correct 1 / 2, 50.00%\n"


def test_an_evaluation_that_cannot_be_graded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation(tmp_path / "eval")
    for task, change, error in (
        ("math500", lambda: None, "answers gsm8k, not math500"),
        ("gsm8k", lambda: write(folder / "completions.jsonl", {"id": "gsm8k-test-7"}), "no test prompt 'gsm8k-test-7'"),
        ("gsm8k", (folder / "settings.json").unlink, "no settings.json in it, so no evaluation"),
    ):
        change()
        with pytest.raises(SystemExit) as ended:
            main(["grade", str(folder), "--task", task])
        assert ended.value.code == 2 and error in capsys.readouterr().err


def test_tiny_tasks_are_graded_as_the_published_ones() -> None:
    for name in ("countdown", "sudoku"):
        row = next(row for task, row in GOOD.items() if task.startswith(name))
        assert grade_row(name, "strict", row).correct


@needs_llada
@pytest.mark.parametrize(
    ("task", "rules", "said"),
    [
        ("gsm8k", "d1", "correct 863 / 1130, 76.37%"),
        ("math500", "d1", "correct 162 / 500, 32.40%"),
        ("countdown_cd3", "d1", "correct 50 / 256, 19.53%"),
        ("sudoku_4x4", "d1", "correct 0 / 256, 0.00%, 6.69% of cells"),
        ("gsm8k", "strict", "correct 878 / 1130, 77.70%"),
        ("math500", "strict", "correct 179 / 500, 35.80%"),
        ("countdown_cd3", "strict", "correct 51 / 256, 19.92%"),
        ("sudoku_4x4", "strict", "correct 0 / 256, 0.00%, 0.78% of cells"),
    ],
)
def test_real_completions(task: str, rules: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["grade", str(FOLDER / FILES[task]), "--task", task, "--rules", rules])
    assert capsys.readouterr().out == said + "\n"


def test_grading_is_light_and_quick(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD["math500"])
    code = f"""
import sys
from diffpo.cli import main
main(["grade", {path!r}, "--task", "math500"])
print("heavy:", *({{"torch", "numpy", "sympy", "datasets", "reasoning_gym", "math_verify"}} & set(sys.modules)))
"""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "correct 1 / 1, 100.00%\nheavy:\n" and time.perf_counter() - started < 5.0
