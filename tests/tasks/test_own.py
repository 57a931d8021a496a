"""A task of the user's own: rows, reward functions of TRL's signature, weights, and mistakes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from diffpo.config import TaskConfig
from diffpo.rollout.judging import judge
from diffpo.tasks import load_task
from diffpo.types import Attempts, Prompt, Verdict

REWARDS = """
LIMIT = 3


def accuracy(prompts, completions, answer, **kwargs):
    return [float(truth in completion) for completion, truth in zip(completions, answer, strict=True)]


def brief(completions):
    return [-float(len(completion)) for completion in completions]
"""
ROWS = [{"prompt": f"What is {n}?", "answer": str(n)} for n in range(40)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with rows and rewards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.py").write_text(REWARDS)
    write("my.jsonl", ROWS)
    return tmp_path


def write(name: str, rows: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def verify(task: Any, prompt: Prompt, text: str) -> Verdict:
    return judge(task, [Attempts(prompt, [text], [()])])[0].verdicts[0]


def test_rows_and_a_function_are_a_task(folder: Path) -> None:
    task = load_task(TaskConfig(data="my.jsonl", reward=("rewards.py:accuracy",)))
    train, test = task.prompts("train", 36), task.prompts("test", 40)
    assert task.name == "my" and len(test) == 4 and test[0].id == "own-test-0"
    assert {p.text for p in train}.isdisjoint(p.text for p in test) and len({p.text for p in train + test}) == 40
    prompt = test[0]
    right = verify(task, prompt, f"It is {prompt.columns['answer']}.")
    assert right.correct and right.reward == 1.0 and right.parts == {"accuracy": 1.0}
    assert not verify(task, prompt, "no").correct
    assert copy.deepcopy(task).prompts("test", 4) == test


def test_prompts_do_not_depend_on_the_name_of_their_file(folder: Path) -> None:
    """A run goes on where its rows have another name by now."""
    write("elsewhere.jsonl", ROWS)
    both = [
        load_task(TaskConfig(data=data, reward=("rewards.py:accuracy",))) for data in ("my.jsonl", "elsewhere.jsonl")
    ]
    before, after = ([(p.id, p.text) for p in task.prompts("train", 80)] for task in both)
    assert before == after


def test_test_data_of_its_own(folder: Path) -> None:
    write("test.jsonl", ROWS[:3])
    task = load_task(TaskConfig(data="my.jsonl", test_data="test.jsonl", reward=("rewards.py:accuracy",)))
    assert [p.text for p in task.prompts("test", 9)] == [row["prompt"] for row in ROWS[:3]]
    assert len({p.text for p in task.prompts("train", 40)}) == 40


def test_a_repeated_prompt_stays_on_one_side(folder: Path) -> None:
    write("my.jsonl", ROWS[:10] * 3)
    task = load_task(TaskConfig(data="my.jsonl", reward=("rewards.py:accuracy",)))
    assert {p.text for p in task.prompts("train", 60)}.isdisjoint(p.text for p in task.prompts("test", 60))


def test_one_row_can_be_trained_on(folder: Path) -> None:
    write("my.jsonl", ROWS[:1])
    task = load_task(TaskConfig(data="my.jsonl", reward=("rewards.py:accuracy",)))
    assert len(task.prompts("train", 3)) == 3
    with pytest.raises(ValueError, match=r"my\.jsonl: one prompt leaves none to test on"):
        task.prompts("test", 1)


def test_prefill_level_and_chats(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "prefill": "<think>", "level": "easy"},
        {"prompt": [{"role": "user", "content": "b"}]},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "c"}]},
    ]
    write("my.jsonl", rows)
    task = load_task(TaskConfig(data="my.jsonl", test_data="my.jsonl", reward=("rewards.py:brief",)))
    first, second, third = task.prompts("test", 3)
    assert (first.prefill, first.level, first.place, first.messages) == ("<think>", "easy", "my.jsonl, line 1", ())
    assert (second.text, third.text, third.prefill) == ("b", "Be brief.\n\nc", "")
    assert third.messages == rows[2]["prompt"] and third.columns == {"prefill": None, "level": None}


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"question": "a"}, "a row has one of prompt, messages, conversations, instruction; the row's columns: que"),
        ({"prompt": 5}, "column 'prompt' must be text or a list, got '5'"),
        ({"prompt": " "}, "column 'prompt' must be text or a list, got ' '"),
        ({"prompt": ["a"]}, "column 'prompt': message 1 must have a role and content, got 'a'"),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, "the turn before the answer must be the user's"),
        ({"prompt": "a", "completions": "b"}, "column 'completions' would hide what the run gives to rewards"),
        ({"prompt": "a", "trainer_state": 1}, "column 'trainer_state' would hide what the run gives"),
        ({"prompt": "a", "prefill": 5}, "column 'prefill' must be text, got 5"),
    ],
)
def test_a_bad_row_names_file_and_line(folder: Path, row: dict[str, Any], error: str) -> None:
    write("my.jsonl", [ROWS[0], row])
    with pytest.raises(ValueError) as caught:
        load_task(TaskConfig(data="my.jsonl", reward=("rewards.py:accuracy",))).prompts("train", 1)
    assert str(caught.value).startswith("my.jsonl, line ") and error in str(caught.value)


@pytest.mark.parametrize(
    ("knobs", "error"),
    [
        ({"data": "my.jsonl"}, "a task of your own takes both task.data and task.reward"),
        ({"reward": ("code",)}, "a task of your own takes both task.data and task.reward"),
        ({"name": "own"}, "a task of your own takes task.data FILE.jsonl and task.reward FILE.py:FUNCTION, both"),
        ({"name": "own", "data": "my.jsonl"}, "a task of your own takes task.data"),
        ({"name": "own", "data": "my.jsonl", "reward": ("code",), "rules": "d1"}, "task.rules does nothing for own"),
        (
            {"data": "my.jsonl", "reward": ("task",)},
            "task.reward 'task': rows of your own have no verdict of their own",
        ),
    ],
)
def test_half_a_task(folder: Path, knobs: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_task(TaskConfig(**knobs))
    assert error in str(caught.value)


def test_own_rewards_on_published_prompts(folder: Path) -> None:
    write("gsm8k.jsonl", [{"question": "1+4?", "answer": "#### 5"}])
    task = load_task(TaskConfig(name="gsm8k", test_data="gsm8k.jsonl", reward=("rewards.py:accuracy",)))
    (prompt,) = task.prompts("test", 1)
    assert verify(task, prompt, "5").parts == {"accuracy": 1.0}


def test_nulls_of_a_parquet_are_no_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    datasets.disable_progress_bars()
    rows = [
        {"prompt": "a", "answer": "1", "level": "easy", "prefill": None},
        {"prompt": "b", "answer": "2", "level": None, "prefill": "<reasoning>"},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "my.parquet")
    task = load_task(TaskConfig(data="my.parquet", test_data="my.parquet", reward=("rewards.py:accuracy",)))
    found = [(prompt.text, prompt.level, prompt.prefill) for prompt in task.prompts("test", 2)]
    assert found == [("a", "easy", ""), ("b", "", "<reasoning>")]
