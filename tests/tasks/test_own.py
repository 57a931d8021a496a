"""A task of the user's own: rows, reward functions of TRL's signature, weights, and mistakes."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffpo.config import TaskConfig
from diffpo.rewards.functions import load_rewards
from diffpo.tasks import load_task
from diffpo.types import Prompt

REWARDS = '''
LIMIT = 3


def accuracy(prompts, completions, answer, **kwargs):
    return [float(truth in completion) for completion, truth in zip(completions, answer, strict=True)]


async def slow(completions, **kwargs):
    import asyncio

    await asyncio.sleep(0)
    return [len(completion) / 100 for completion in completions]


def sometimes(completions, **kwargs):
    return [None if "skip" in completion else 0.5 for completion in completions]


def columns_only(answer):
    return [float(answer == ["5"])]


def everything(**kwargs):
    return [float(sorted(kwargs) == ["answer", "completions", "extra", "prompts"])]


def messages(prompts, completions, **kwargs):
    [[question]], [[reply]] = prompts, completions
    return [float(question["role"] == "user" and reply == {"role": "assistant", "content": "5"})]


def raises(completions, answer, **kwargs):
    raise KeyError("no such column")


def wrong_length(completions, **kwargs):
    return []


def number_alone(completions, **kwargs):
    return 1.0


def text(completions, **kwargs):
    return ["high"]


class Judge:
    """An object that is called, as rewards with a state are."""

    def __call__(self, completions, **kwargs):
        return [0.25]


judge = Judge()
'''
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


def verdict(*specs: str, completion: str = "5", **columns: object) -> Any:
    prompt = Prompt("my-test-0", "What is 5?", columns={"answer": "5", **columns})
    return load_rewards(specs).verdict(prompt, completion)


def test_rows_and_a_function_are_a_task(folder: Path) -> None:
    task = load_task(TaskConfig(data="my.jsonl", reward=("rewards.py:accuracy",)))
    train, test = task.prompts("train", 36), task.prompts("test", 40)
    assert task.name == "my" and len(test) == 4 and test[0].id == "my-test-0"
    assert {p.text for p in train}.isdisjoint(p.text for p in test) and len({p.text for p in train + test}) == 40
    prompt = test[0]
    right = task.verify(prompt, f"It is {prompt.columns['answer']}.")
    assert right.correct and right.reward == 1.0 and right.parts == {"accuracy": 1.0}
    assert not task.verify(prompt, "no").correct
    assert copy.deepcopy(task).prompts("test", 4) == test


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
    task = load_task(TaskConfig(data="my.jsonl", test_data="my.jsonl", reward=("rewards.py:everything",)))
    first, second, third = task.prompts("test", 3)
    assert (first.prefill, first.level) == ("<think>", "easy")
    assert (second.text, third.text, third.prefill) == ("b", "Be brief.\n\nc", "")


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"question": "a"}, "column 'prompt' is missing; the row's columns: question"),
        ({"prompt": 5}, "column 'prompt' must be text or a list, got '5'"),
        ({"prompt": ["a"]}, "column 'prompt' must be text or one user message"),
        ({"prompt": [{"role": "assistant", "content": "a"}]}, "must be text or one user message"),
        ({"prompt": "a", "prefill": 5}, "column 'prefill' must be text, got 5"),
    ],
)
def test_a_bad_row_names_file_and_line(folder: Path, row: dict[str, Any], error: str) -> None:
    write("my.jsonl", [ROWS[0], row])
    with pytest.raises(ValueError) as caught:
        load_task(TaskConfig(data="my.jsonl", reward=("rewards.py:accuracy",))).prompts("train", 1)
    assert str(caught.value).startswith("my.jsonl, line 2: ") and error in str(caught.value)


# --- rewards -----------------------------------------------------------------------------------------------------


def test_several_rewards_with_weights(folder: Path) -> None:
    found = verdict("rewards.py:accuracy", "rewards.py:slow=0.5", "rewards.py:judge=-2")
    assert found.parts == {"accuracy": 1.0, "slow": 0.01, "judge": 0.25}
    assert found.correct and found.reward == pytest.approx(1.0 + 0.5 * 0.01 - 2 * 0.25)
    assert not verdict("rewards.py:judge", "rewards.py:accuracy").correct, "the first reward says what is right"


def test_none_leaves_a_row_out(folder: Path) -> None:
    alone = verdict("rewards.py:sometimes", completion="skip")
    assert alone.reward is None and not alone.correct and math.isnan(alone.parts["sometimes"])
    beside = verdict("rewards.py:sometimes", "rewards.py:judge", completion="skip")
    assert beside.reward == 0.25 and math.isnan(beside.parts["sometimes"])


def test_functions_get_what_they_take(folder: Path) -> None:
    assert verdict("rewards.py:columns_only").reward == 1.0
    assert verdict("rewards.py:everything", extra=1, prompt="p", place="my.jsonl, line 1").reward == 1.0
    assert verdict("rewards.py:messages", prompt=[{"role": "user", "content": "q"}]).reward == 1.0
    prompt = Prompt("x", "q", columns={"answer": "<think>5"}, prefill="<think>")
    assert load_rewards(["rewards.py:accuracy"]).verdict(prompt, "5").reward == 1.0, "the prefill is part of it"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("raises", "reward 'raises' raised KeyError('no such column') on my.jsonl, line 7"),
        ("wrong_length", "reward 'wrong_length' must return a list, a number for each completion, got []"),
        ("number_alone", "must return a list, a number for each completion, got 1.0"),
        ("text", "reward 'text' returned 'high' on my.jsonl, line 7: not a number or None"),
    ],
)
def test_a_reward_that_fails_names_itself_and_the_row(folder: Path, name: str, error: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        verdict(f"rewards.py:{name}", place="my.jsonl, line 7")
    assert error in str(caught.value)


def test_async_rewards_run_inside_a_running_loop(folder: Path) -> None:
    import asyncio

    async def notebook() -> float:
        return verdict("rewards.py:slow").reward

    assert asyncio.run(notebook()) == 0.01


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("nope.py:accuracy", "nope.py: no such file; task.reward takes PATH.py:FUNCTION"),
        ("rewards.py:acuracy", "rewards.py has no function 'acuracy'; did you mean 'accuracy'?"),
        ("rewards.py:LIMIT", "rewards.py has no function 'LIMIT'"),
        ("rewards.py:accuracy=much", "task.reward 'rewards.py:accuracy=much': write PATH.py:FUNCTION=WEIGHT"),
        ("rewards.py:accuracy=nan", "write PATH.py:FUNCTION=WEIGHT"),
        ("rewards.py", "write PATH.py:FUNCTION=WEIGHT, or one of number, math, code"),
        ("rewards.txt:accuracy", "write PATH.py:FUNCTION=WEIGHT"),
        ("maths", "task.reward 'maths': no built-in reward; did you mean 'math'?"),
        ("broken.py:f", "broken.py does not import: ZeroDivisionError('division by zero')"),
    ],
)
def test_a_reward_that_is_not_there_says_what_is(folder: Path, spec: str, error: str) -> None:
    Path("broken.py").write_text("1 / 0")
    with pytest.raises(ValueError) as caught:
        load_rewards([spec])
    assert error in str(caught.value) and "\n" not in str(caught.value)


def test_two_rewards_of_one_name(folder: Path) -> None:
    with pytest.raises(ValueError, match="two rewards are called 'code'"):
        load_rewards(["code", "code=2"])


def test_built_in_rewards() -> None:
    assert verdict("number", completion=r"\boxed{5 apples}").reward == 1.0
    assert verdict("number", completion="5").reward == 0.0
    assert verdict("math", completion=r"\boxed{\frac{10}{2}}").reward == 1.0
    program = "```python\ndef f():\n    return 5\n```"
    assert verdict("code", completion=program, tests=["assert f() == 5", "assert f() == 6"]).reward == 0.5


@pytest.mark.parametrize(
    ("knobs", "error"),
    [
        (
            {"data": "my.jsonl"},
            "task.data does nothing for tiny_sudoku, which takes easy hard hard_share (your own: data and",
        ),
        ({"reward": ("code",)}, "task.reward does nothing for tiny_sudoku"),
        ({"name": "own"}, "a task of your own takes task.data FILE.jsonl and task.reward FILE.py:FUNCTION, both"),
        ({"name": "own", "data": "my.jsonl"}, "a task of your own takes task.data"),
        ({"name": "own", "data": "my.jsonl", "reward": ("code",), "rules": "d1"}, "task.rules does nothing for own"),
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
    assert task.verify(prompt, "5").parts == {"accuracy": 1.0}
