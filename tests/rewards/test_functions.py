"""Reward functions by name: those that are there, and what is said of those that are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffpo.rewards.functions import load_rewards


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("nope.py:accuracy", "nope.py: no such file; task.reward takes PATH.py:FUNCTION"),
        ("rewards.py:acuracy", "rewards.py has no function 'acuracy'; did you mean 'accuracy'?"),
        ("rewards.py:LIMIT", "rewards.py has no function 'LIMIT'"),
        (
            "rewards.py:accuracy=much",
            "task.reward 'rewards.py:accuracy=much': write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT",
        ),
        ("rewards.py:accuracy=nan", "write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT"),
        ("rewards.py", "write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT, or one of number, math, code"),
        ("rewards.txt:accuracy", "write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT"),
        ("maths", "task.reward 'maths': no built-in reward; did you mean 'math'?"),
        (
            "rewards.py:Scorer",
            "task.reward 'rewards.py:Scorer': Scorer is a class: name a function, or an instance of it",
        ),
        ("broken.py:f", "broken.py does not import: ZeroDivisionError('division by zero')"),
    ],
)
def test_a_reward_that_is_not_there_says_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0")
    text = "LIMIT = 3\ndef accuracy(completions):\n    return completions\nclass Scorer:\n    pass\n"
    Path("rewards.py").write_text(text)
    with pytest.raises(ValueError) as caught:
        load_rewards([spec])
    assert error in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_imports_what_lies_beside_it_and_leaves_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    Path("mine").mkdir()
    Path("mine", "beside_rewards.py").write_text("WORTH = 0.5\n")
    text = "import os\nos.chdir('mine')\nfrom beside_rewards import WORTH\ndef f(completions):\n    return [WORTH]\n"
    Path("mine", "rewards.py").write_text(text)
    (reward,) = load_rewards(["mine/rewards.py:f"]).rewards
    assert reward.function([""]) == [0.5]
    assert Path.cwd() == tmp_path


def test_two_rewards_of_one_name() -> None:
    with pytest.raises(ValueError, match="two rewards are called 'code'"):
        load_rewards(["code", "code=2"])


def test_a_folder_of_equals_signs(tmp_path: Path) -> None:
    folder = tmp_path / "lr=1e-3"
    folder.mkdir()
    (folder / "mine.py").write_text("def f(completions): return [1.0]\n")
    rewards = load_rewards([f"{folder}/mine.py:f=0.5", "number=2"])
    assert [(reward.name, reward.weight) for reward in rewards.rewards] == [("f", 0.5), ("number", 2.0)]
