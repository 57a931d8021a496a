"""The tasks for chat models: d1's protocol, rows and generated problems, splits, rules."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grading.llada import FOLDER, needs_llada

from diffpo.config import TaskConfig
from diffpo.grading.grade import formatted
from diffpo.grading.saved import grade_row
from diffpo.grading.sudoku import solutions_of
from diffpo.rollout.judging import judge
from diffpo.tasks import CHAT, SOLVED, load_solved_task, load_task, load_tiny_task
from diffpo.tasks.base import Split, Task
from diffpo.tasks.chat import PREFILL
from diffpo.tasks.tiny_sudoku import GRID_SET
from diffpo.types import Attempts, Prompt

COUNTDOWN_TEST = FOLDER.parent / "countdown_cd3_test.jsonl"
SUDOKU_TEST = FOLDER.parent / "sudoku_4x4_test.csv"
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [{"question": f"What is {n} + {n}?", "answer": f"It is\n#### {2 * n:,}"} for n in range(1, 1200)],
    "math500": [{"problem": f"Halve ${n}$.", "solution": rf"It is $\boxed{{\frac{{{n}}}{{2}}}}$."} for n in range(50)],
    "countdown_cd3": [{"nums": [n, n + 1, 3], "target": 2 * n + 4} for n in range(1, 60)]
    + [{"nums": [1], "target": 1}],
    "sudoku_4x4": [{"Puzzle": grid[:12] + "0000", "Solution": grid} for grid in sorted(GRID_SET)],
}
RIGHT = {
    "gsm8k": r"\boxed{2}",
    "math500": r"\boxed{\frac{0}{2}}",
    "countdown_cd3": r"\boxed{1 + 2 + 3}",
    "sudoku_4x4": sorted(GRID_SET)[0],
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(params=ROWS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> TaskConfig:
    rows = ROWS[request.param]
    data = write(tmp_path / "train.jsonl", rows[len(rows) // 2 :])
    return TaskConfig(name=request.param, data=data, test_data=write(tmp_path / "test.jsonl", rows[: len(rows) // 2]))


def test_a_prompt_is_one_message_with_the_form_and_a_prefilled_completion(config: TaskConfig) -> None:
    task = load_task(config)
    prompts = [task.prompts("train", 1)[0], task.prompts("test", 1)[0]]
    for prompt in prompts:
        assert prompt.prefill == PREFILL == "<reasoning>"
        for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"):
            assert prompt.text.count(tag) == 1
    texts = [re.sub(r"\d+|[\[\](),$?. ]", "", prompt.text) for prompt in prompts]
    assert texts[0] == texts[1], "training and evaluation ask in the same words"
    assert task.gen_length == 256


def test_the_form_in_the_prompt_is_no_answer(config: TaskConfig) -> None:
    task = load_task(config)
    prompt = task.prompts("test", 1)[0]
    for text in (prompt.text, prompt.text.partition("<reasoning>")[2], prompt.text * 50):
        verdict = task.verify(prompt, text)
        assert not verdict.correct and verdict.reward == 0.0


def test_a_task_s_own_verdict_and_the_form_are_rewards(config: TaskConfig) -> None:
    task = load_task(replace(config, reward=("task", "format=0.1")))
    prompt = task.prompts("test", 1)[0]
    answer = f"\n</reasoning>\n<answer>\n{RIGHT[config.name]}\n</answer>"
    attempts = Attempts(prompt, [answer, "<answer>" + answer, answer.replace(RIGHT[config.name], "no")], [()] * 3)
    (judged,) = judge(task, [attempts])
    assert [verdict.correct for verdict in judged.verdicts] == [True, True, False]
    assert [verdict.reward for verdict in judged.verdicts] == pytest.approx([1.1, 1.0, 0.1])
    assert judged.verdicts[1].parts == {"task": 1.0, "format": 0.0}


@pytest.mark.parametrize("rules", ["strict", "d1"])
def test_verdicts_by_both_rules(config: TaskConfig, rules: str) -> None:
    task = load_task(TaskConfig(name=config.name, test_data=config.test_data, rules=rules))  # pyright: ignore[reportArgumentType]
    prompt = task.prompts("test", 1)[0]
    verdict = task.verify(prompt, f"\nSo.\n</reasoning>\n<answer>\n{RIGHT[config.name]}\n</answer>\n")
    assert verdict.correct and verdict.reward >= 1.0
    assert not task.verify(prompt, "<answer>no</answer>").correct
    assert all(isinstance(part, float) for part in verdict.parts.values())


def test_test_rows_come_in_order_and_end(config: TaskConfig) -> None:
    task = load_task(config)
    everything = task.prompts("test", 10_000)
    assert everything == task.prompts("test", len(everything)) and 25 <= len(everything) < 10_000
    assert task.prompts("test", 5, start=3) == everything[3:8]
    assert task.prompts("test", 5, start=10_000) == []
    assert [prompt.id for prompt in everything] == [f"{task.name}-test-{n}" for n in range(len(everything))]


def test_training_rows_come_in_shuffled_epochs(config: TaskConfig) -> None:
    task = load_task(config)
    num_rows = len({prompt.text for prompt in task.prompts("train", 2000)})
    first, second = task.prompts("train", num_rows), task.prompts("train", num_rows, start=num_rows)
    assert {p.text for p in first} == {p.text for p in second} and [p.text for p in first] != [p.text for p in second]
    assert len({prompt.id for prompt in first + second}) == 2 * num_rows
    assert task.prompts("train", 4, start=num_rows - 2) == [*first[-2:], *second[:2]]
    assert copy.deepcopy(task).prompts("train", 4) == load_task(config).prompts("train", 4) == first[:4]
    other = load_task(TaskConfig(name=config.name, data=config.data, test_data=config.test_data, seed=1))
    assert [p.text for p in other.prompts("train", num_rows)] != [p.text for p in first]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_split_or_row_is_named(config: TaskConfig, split: Split, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        load_task(config).prompts("tset", 1)  # pyright: ignore[reportArgumentType]
    bad = write(tmp_path / "bad.jsonl", [ROWS[config.name][0], {"x": 1}])
    knobs: dict[str, Any] = {"data" if split == "train" else "test_data": bad}
    with pytest.raises(ValueError, match=r"bad\.jsonl, line 2: column .* is missing; the row's columns: x"):
        load_task(TaskConfig(name=config.name, **knobs)).prompts(split, 1)


@pytest.mark.parametrize(
    ("name", "row", "error"),
    [
        ("math500", {"problem": "x", "solution": "no box"}, r"column 'solution' holds no \boxed{...}, got 'no box'"),
        ("gsm8k", {"question": "x", "answer": "so many"}, "column 'answer': a reference must be a number, alone or"),
        ("math500", {"problem": "x", "solution": r"\boxed{}"}, "column 'solution': a reference must say something"),
        ("countdown_cd3", {"numbers": [1, "a", 2], "target": 3}, "numbers and target must be whole"),
        ("countdown_cd3", {"numbers": [1.5, 2, 2], "target": 3}, "numbers and target must be whole"),
        ("countdown_cd3", {"numbers": [1, 2, float("inf")], "target": 3}, "numbers and target must be whole"),
        ("countdown_cd3", {"numbers": [1, 2, 2], "target": True}, "numbers and target must be whole"),
        ("countdown_cd3", {"numbers": 5, "target": 3}, "column 'numbers' must be a list or text, got '5'"),
        ("sudoku_4x4", {"Puzzle": "1" * 15, "Solution": "1" * 16}, "Puzzle must be 16 digits, Solution a grid"),
        ("sudoku_4x4", {"Puzzle": "4" + "0" * 15, "Solution": sorted(GRID_SET)[0]}, "does not have the clues of"),
    ],
)
def test_a_wrong_row_says_why(name: str, row: dict[str, Any], error: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_task(TaskConfig(name=name, test_data=write(tmp_path / "bad.jsonl", [row]))).prompts("test", 1)
    assert str(caught.value).startswith(f"{tmp_path}/bad.jsonl, line 1: ") and error in str(caught.value)


def test_references_of_the_rows(tmp_path: Path) -> None:
    def first(name: str, row: dict[str, Any]) -> Prompt:
        return load_task(TaskConfig(name=name, test_data=write(tmp_path / "a.jsonl", [row]))).prompts("test", 1)[0]

    assert first("gsm8k", {"question": "q", "answer": "a\n#### 1,450"}).columns["answer"] == "1,450"
    assert first("gsm8k", {"question": "q", "answer": -10.0}).columns["answer"] == "-10"
    assert first("math500", {"problem": "q", "answer": r"\pi"}).columns["answer"] == r"\pi"
    assert first("math500", {"problem": "q", "solution": r"so \boxed2."}).columns["answer"] == "2"
    assert (
        first("math500", {"problem": "q", "solution": r"\boxed{1} \boxed{\frac{1}{2}}"}).columns["answer"]
        == r"\frac{1}{2}"
    )
    for row in ({"input": "30,100,93", "output": "23"}, {"nums": [30.0, 100, 93], "target": 23.0}):
        assert first("countdown_cd3", row).columns == {"numbers": (30, 100, 93), "target": 23}


def test_a_data_set_that_is_not_here_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    for name, source in (("gsm8k", "openai/gsm8k:main:test"), ("math500", "HuggingFaceH4/MATH-500:test")):
        with pytest.raises(ValueError, match=f"{source}: no such data set here.*task.test_data takes"):
            load_task(name).prompts("test", 1)


# --- generated problems ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["countdown_cd3", "sudoku_4x4"])
def generated(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


def key(prompt: Prompt) -> object:
    """What must not be on both sides: the problem in any order, the solution."""
    columns: Any = prompt.columns
    return columns.get("solution") or (tuple(sorted(columns["numbers"])), columns["target"])


def test_generated_splits_are_disjoint_and_depend_on_their_index_alone(generated: Task) -> None:
    train, test = generated.prompts("train", 500), generated.prompts("test", 1000)
    assert len(test) == 256 and not set(map(key, train)) & set(map(key, test))
    assert load_task(generated.name).prompts("train", 3, start=40) == train[40:43]
    assert load_task(generated.name).prompts("test", 3, start=40) == test[40:43]
    assert generated.prompts("test", 10, start=250) == test[250:]
    assert load_task(TaskConfig(name=generated.name, seed=1)).prompts("train", 5) != train[:5]


def test_generated_countdown_can_be_solved() -> None:
    from itertools import permutations, product

    from diffpo.grading import countdown

    for prompt in load_task("countdown_cd3").prompts("train", 30):
        columns: Any = prompt.columns
        forms = ("({0}{3}{1}){4}{2}", "{0}{3}({1}{4}{2})")
        answers = (
            form.format(*numbers, *signs)
            for numbers in permutations(columns["numbers"])
            for signs in product("+-*/", repeat=2)
            for form in forms
        )
        assert any(countdown.strict(columns, rf"\boxed{{{answer}}}").correct for answer in answers)


def test_generated_sudoku_has_eight_blanks_and_verifies() -> None:
    task = load_task("sudoku_4x4")
    for prompt in task.prompts("train", 30):
        assert str(prompt.columns["puzzle"]).count("0") == 8
        assert task.verify(prompt, f"</reasoning>\n<answer>\n{prompt.columns['solution']}\n</answer>").reward == 1.0


def test_no_generated_problem_is_in_the_test_file(tmp_path: Path) -> None:
    """A test file that holds what would be drawn: none of it is."""
    for name in ("countdown_cd3", "sudoku_4x4"):
        drawn = load_task(name).prompts("train", 40)
        rows: list[dict[str, Any]] = [
            {"numbers": [*p.columns["numbers"]][::-1], "target": p.columns["target"]}  # pyright: ignore[reportGeneralTypeIssues]
            if name == "countdown_cd3"
            else {"Puzzle": p.columns["puzzle"], "Solution": p.columns["solution"]}
            for p in drawn
        ]
        task = load_task(TaskConfig(name=name, test_data=write(tmp_path / f"{name}.jsonl", rows)))
        assert not set(map(key, task.prompts("train", 200))) & set(map(key, drawn))
        data, test = write(tmp_path / "d.jsonl", rows), write(tmp_path / "t.jsonl", rows[:20])
        task = load_task(TaskConfig(name=name, data=data, test_data=test))
        assert not {p.text for p in task.prompts("train", 20)} & {p.text for p in drawn[:20]}
        with pytest.raises(ValueError, match=r"t\.jsonl: none of its rows can be used for train: a row has"):
            load_task(TaskConfig(name=name, data=test, test_data=test)).prompts("train", 1)


def test_a_test_file_of_any_size_leaves_grids_to_train_on(tmp_path: Path) -> None:
    data = write(tmp_path / "all.jsonl", ROWS["sudoku_4x4"])
    assert len(load_task(TaskConfig(name="sudoku_4x4", test_data=data)).prompts("train", 3)) == 3


@needs_llada
def test_d1_test_sets() -> None:
    countdown = load_task(TaskConfig(name="countdown_cd3", test_data=str(COUNTDOWN_TEST)))
    assert len(countdown.prompts("test", 1000)) == 256
    sudoku = load_task(TaskConfig(name="sudoku_4x4", test_data=str(SUDOKU_TEST)))
    puzzles = {prompt.columns["puzzle"] for prompt in sudoku.prompts("test", 1000)}
    all_puzzles = [line.split(",")[0] for line in SUDOKU_TEST.read_text().splitlines()[1:]]
    assert sum(len(solutions_of(puzzle)) > 1 for puzzle in all_puzzles) == 124  # docs/grading.md
    saved = (FOLDER / "sudoku_256.jsonl").read_text()
    assert puzzles == {json.loads(line)["question"].split()[-1] for line in saved.splitlines()}
    for task in (countdown, sudoku):
        assert not set(map(key, task.prompts("train", 300))) & set(map(key, task.prompts("test", 256)))


# --- all of them -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAT)
def test_a_task_for_chat_models_teaches_no_fresh_weights(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is no task for fresh weights: choose one of"):
        load_tiny_task(TaskConfig(name=name))


@pytest.mark.parametrize("name", ["math500", "own", "reasoning_gym:chain_sum"])
def test_who_knows_no_solution_says_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} knows no solutions: choose one of gsm8k, "):
        load_solved_task(TaskConfig(name=name))


def test_solutions_are_right_and_in_the_form_that_is_asked_for(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    answer = "She sold 48/2 = <<48/2=24>>24 in May.\nThat makes 48+24 = <<48+24=72>>72.\n#### 72"
    rows.write_text(json.dumps({"question": "How many?", "answer": answer}) + "\n")
    for name in SOLVED:
        task = load_solved_task(TaskConfig(name=name, data=str(rows) if name == "gsm8k" else None))
        for prompt in task.prompts("train", 20):
            completion = prompt.prefill + task.solution(prompt)
            verdict = task.verify(prompt, task.solution(prompt))
            assert verdict.correct and formatted(completion), (name, prompt.columns, completion)
            assert "<<" not in completion


def test_a_row_without_a_solution_is_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "How many?", "answer": 72}) + "\n")
    task = load_solved_task(TaskConfig(name="gsm8k", data=str(rows)))
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 1: column 'answer' holds the number alone"):
        task.solution(task.prompts("train", 1)[0])


def test_kinds_of_problems_are_apart() -> None:
    """New kinds are never among the known ones, on either side of the split; and each kind has both sides."""
    found = {
        (kinds, split): {
            prompt.columns["kind"]
            for prompt in load_task(TaskConfig("reasoning_gym:gsm_symbolic", kinds=kinds)).prompts(split, 40)
        }
        for kinds in ("known", "new")
        for split in ("train", "test")
    }
    known, new = (found[kinds, "train"] | found[kinds, "test"] for kinds in ("known", "new"))
    assert known and new and not known & new
    assert found["new", "train"] & found["new", "test"]
    some = load_task(TaskConfig("reasoning_gym:gsm_symbolic", kinds=(10, 43)))
    assert {prompt.columns["kind"] for prompt in some.prompts("test", 8)} == {10, 43}
    with pytest.raises(ValueError, match=r"numbered 0 to 99, got task\.kinds = \(10, 100\)"):
        load_task(TaskConfig("reasoning_gym:gsm_symbolic", kinds=(10, 100)))
    with pytest.raises(ValueError, match=r"task\.kinds is for gsm_symbolic: the problems of chain_sum"):
        load_task(TaskConfig("reasoning_gym:chain_sum", kinds="new"))


@pytest.mark.parametrize(
    ("name", "near"), [("gsm8", "gsm8k"), ("math", "math500"), ("gsm8k:x", "gsm8k"), ("sudoku4x4", "sudoku_4x4")]
)
def test_unknown_names(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown task '{name}'; did you mean '{near}'"):
        load_task(name)
    with pytest.raises(ValueError, match=r"unknown task 'mine\.py' .*; your own: PATH\.py:CLASS"):
        load_task("mine.py")


@pytest.mark.parametrize(
    ("knobs", "error"),
    [
        (
            {"name": "gsm8k", "easy": (1, 2)},
            "task.easy does nothing for gsm8k, which takes rules data test_data reward",
        ),
        ({"name": "gsm8k", "hard_share": 0.1}, "task.hard_share does nothing for gsm8k"),
        ({"name": "tiny_sudoku", "rules": "d1"}, "task.rules does nothing for tiny_sudoku"),
        ({"name": "tiny_countdown", "test_data": "a.jsonl"}, "task.test_data does nothing for tiny_countdown"),
        ({"name": "reasoning_gym:gcd", "data": "a.jsonl"}, "task.data does nothing for reasoning_gym:gcd"),
        ({"name": "gsm8k", "rules": "d1", "reward": ("number",)}, "task.rules does nothing beside task.reward"),
    ],
)
def test_a_knob_that_does_nothing_is_an_error(knobs: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        TaskConfig(**knobs)
    assert error in str(caught.value)


@needs_llada
@pytest.mark.parametrize("rules", ["strict", "d1"])
def test_training_and_grade_share_one_grader(rules: str) -> None:
    row = json.loads((FOLDER / "countdown_256.jsonl").read_text().splitlines()[0])
    numbers, target = row["ground_truth"]
    task = load_task(TaskConfig(name="countdown_cd3", rules=rules))  # pyright: ignore[reportArgumentType]
    verdict = task.verify(Prompt("x", "x", columns={"numbers": numbers, "target": target}), row["generation"])
    graded = grade_row("countdown_cd3", rules, row)
    assert (verdict.correct, verdict.reward, verdict.parts) == (graded.correct, graded.reward, graded.parts)
