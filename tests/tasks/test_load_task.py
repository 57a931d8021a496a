"""What a task of the tiny models promises: pure streams, disjoint splits, answers that verify, verdicts on anything."""

from __future__ import annotations

import copy
import dataclasses
import functools
import subprocess
import sys
import time

import pytest
from grading.hostile import BOUND, HOSTILE, disguises
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo.config import TaskConfig
from diffpo.tasks import TINY, load_task
from diffpo.tasks.base import Split, Task
from diffpo.types import Prompt


@pytest.fixture(scope="module", params=sorted(TINY))
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(request.param)


@pytest.mark.parametrize("split", ["train", "test"])
def test_prompts_depend_on_their_index_alone(task: Task, split: Split) -> None:
    fresh = load_task(task.name)
    whole = fresh.prompts(split, 30)
    assert task.prompts(split, 7, start=23) == whole[23:]
    assert task.prompts(split, 30) == whole
    assert task.prompts(split, 1, start=12) == [whole[12]]
    assert task.prompts(split, 0, start=5) == []
    assert [prompt.id for prompt in whole] == [f"{task.name.removeprefix('tiny_')}-{split}-{i}" for i in range(30)]


def test_splits_are_disjoint(task: Task) -> None:
    train = {prompt.text for prompt in task.prompts("train", 400)}
    assert train.isdisjoint(prompt.text for prompt in task.prompts("test", 60))


def test_seeds_give_different_prompts(task: Task) -> None:
    other = load_task(TaskConfig(name=task.name, seed=1))
    texts = {prompt.text for prompt in task.prompts("train", 60)}
    assert len(texts & {prompt.text for prompt in other.prompts("train", 60)}) < 15


def test_negative_seed_is_a_seed(task: Task) -> None:
    assert len(load_task(TaskConfig(name=task.name, seed=-3)).prompts("train", 2)) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_solution_is_right_and_fits(task: Task, split: Split) -> None:
    for prompt in task.prompts(split, 60):
        solution = task.solution(prompt)
        verdict = task.verify(prompt, solution)
        assert verdict.correct and verdict.reward == 1.0 and verdict.parts["correct"] == 1.0
        assert task.verify(prompt, f" {solution}\n").correct
        assert set(prompt.text + solution) <= set(task.alphabet)
        assert len(solution) < task.gen_length or (task.name == "tiny_sudoku" and len(solution) == task.gen_length)


def test_open_positions_are_what_the_prompt_leaves_out(task: Task) -> None:
    for prompt in task.prompts("train", 20):
        solution = task.solution(prompt)
        closed = set(range(len(solution))) - set(task.open_positions(prompt))
        assert all(solution[i] in prompt.text for i in closed)
        given = {"tiny_sudoku": 16 - prompt.text.count("0"), "tiny_steps": 3 * len(solution) // 5}
        assert len(closed) == given.get(task.name, 0)


def test_alphabet_names_each_character_once(task: Task) -> None:
    assert len(set(task.alphabet)) == len(task.alphabet)


def test_hard_share(task: Task) -> None:
    levels = [prompt.level for prompt in task.prompts("train", 400)]
    assert 150 < levels.count("hard") < 250
    for share, level in ((0.0, "easy"), (1.0, "hard")):
        only = load_task(TaskConfig(name=task.name, hard_share=share))
        assert {prompt.level for prompt in only.prompts("train", 20)} == {level}


def test_copies_are_equal(task: Task) -> None:
    """Collectors in other processes get a copy of the task."""
    task.prompts("train", 3)
    assert copy.deepcopy(task).prompts("train", 3) == task.prompts("train", 3)


def test_wrong_names_are_errors_that_say_so(task: Task) -> None:
    with pytest.raises(ValueError, match="did you mean 'tiny_sudoku'"):
        load_task("tiny_sudoko")
    with pytest.raises(ValueError, match=r"did you mean tiny_sudoku \(tiny models\) or sudoku_4x4 \(chat models\)\?$"):
        load_task("sudoku")
    with pytest.raises(ValueError, match=r"did you mean tiny_arithmetic \(tiny models\)\?$"):
        load_task("arithmetic")
    with pytest.raises(ValueError, match="unknown split 'tset'; did you mean 'test'"):
        task.prompts("tset", 1)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("field", ["easy", "hard"])
def test_difficulty_out_of_reach_is_an_error(task: Task, field: str) -> None:
    with pytest.raises(ValueError, match=rf"task.{field} of {task.name} must lie within"):
        load_task(dataclasses.replace(TaskConfig(name=task.name), **{field: (2, 99)}))


def seconds(task: Task, prompt: Prompt, text: str) -> float:
    """CPU time of the best of three verdicts: a busy machine does not decide."""
    times = []
    for _ in range(3):
        start = time.process_time()
        verdict = task.verify(prompt, text)
        times.append(time.process_time() - start)
        assert not verdict.correct and verdict.reward == 0.0 and verdict.parts["correct"] == 0.0
    return min(times)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_scores_nothing_quickly(task: Task, name: str) -> None:
    prompt = task.prompts("test", 1)[0]
    text = HOSTILE[name]
    for answer in disguises(text):
        assert seconds(task, prompt, answer) < BOUND


def test_longest_hostile_time(task: Task) -> None:
    """Measures the slowest hostile answer; `pytest -rP` prints it."""
    prompt = task.prompts("test", 1)[0]
    longest, name = max((seconds(task, prompt, text), name) for name, text in HOSTILE.items())
    print(f"{task.name}: {longest * 1000:.2f} ms for {name!r}")
    assert longest < BOUND


ANSWERISH = st.lists(
    st.sampled_from(
        [*"0123456789+-*/()=.,{}$\\ \n<>", r"\boxed{", "<answer>", "</answer>", "**", "//", "\u0663", "\x00"]
    )
).map("".join)


@settings(max_examples=300)
@given(text=st.text() | ANSWERISH)
def test_any_text_gets_a_verdict(text: str) -> None:
    for task, prompt in fuzzed():
        verdict = task.verify(prompt, text)
        assert verdict.reward == float(verdict.correct) == verdict.parts["correct"]
        assert all(0.0 <= part <= 1.0 for part in verdict.parts.values())


@functools.cache
def fuzzed() -> list[tuple[Task, Prompt]]:
    tasks = [load_task(name) for name in TINY]
    return [(task, task.prompts("test", 1)[0]) for task in tasks]


def test_tasks_import_nothing_heavy() -> None:
    check = "import sys, diffpo.tasks; sys.exit(bool({'torch', 'numpy', 'reasoning_gym'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
