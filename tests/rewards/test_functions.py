"""Reward functions by name: those that are there, and what is said of those that are not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from diffpo.rewards.calls import TrainerState
from diffpo.rewards.functions import load_rewards
from diffpo.types import Attempts, Prompt


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
        ("rewards.py", "write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT, or one of number, math, code, format"),
        ("rewards.txt:accuracy", "write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT"),
        ("maths", "task.reward 'maths': no built-in reward; did you mean 'math'?"),
        (
            "rewards.py:Scorer",
            "task.reward 'rewards.py:Scorer': Scorer is a class: name a function, or an instance of it",
        ),
        ("broken.py:f", "broken.py does not import: ZeroDivisionError('division by zero')"),
        ("script.py:f", "script.py does not import: SystemExit(0)"),
        ("empty.py:f", "empty.py has no function 'f'; it has none"),
    ],
)
def test_a_reward_that_is_not_there_says_what_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0")
    Path("script.py").write_text("raise SystemExit(0)")
    Path("empty.py").touch()
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


@pytest.mark.parametrize("reward", ["number", "math"])
def test_the_prompt_says_in_what_a_number_is_asked_for(reward: str) -> None:
    rewards = load_rewards([reward])
    prompt = Prompt("", "It is 3.5 miles. How many hours does it take?", columns={"answer": "2"})
    call = rewards.begin(
        Attempts(prompt, [r"\boxed{2 hours}", r"\boxed{2 minutes}", r"\boxed{2\%}"], [[]] * 3), TrainerState()
    )
    assert [verdict.reward for verdict in call.finish().verdicts] == [1.0, 0.0, 0.0]


def test_files_of_several_folders_import_each_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the working folder, which notebooks look in first, has one of the same name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    for place, worth in {".": 0, "one": 1, "two": 2}.items():
        Path(place, "kinds").mkdir(parents=True)
        Path(place, "kinds", "tools.py").write_text(f"KIND = {worth}\n")
        Path(place, "beside_both.py").write_text(f"WORTH = {worth}\n")
        text = f"import beside_both, kinds.tools\ndef f{worth}(): return beside_both.WORTH, kinds.tools.KIND\n"
        Path(place, "rewards.py").write_text(text)
    specs = ["rewards.py:f0", "one/rewards.py:f1", "two/rewards.py:f2"]
    for order in (specs, specs[::-1]):
        assert [reward.function() for reward in load_rewards(order).rewards] == [(int(spec[-1]),) * 2 for spec in order]


def test_what_lies_beside_a_file_is_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also below the working folder: it may hold a judge that takes a while to load."""
    monkeypatch.chdir(tmp_path)
    Path("below").mkdir()
    Path("below", "heavy_judge.py").write_text("print('loaded')\n")
    Path("below", "rewards.py").write_text("import heavy_judge\ndef f(completions): ...\ndef g(completions): ...\n")
    load_rewards(["below/rewards.py:f", "below/rewards.py:g"])
    assert capsys.readouterr().out == "loaded\n"


def test_two_rewards_of_one_name() -> None:
    with pytest.raises(ValueError, match="two rewards are called 'code'"):
        load_rewards(["code", "code=2"])


def test_rewards_that_all_weigh_nothing() -> None:
    with pytest.raises(ValueError, match="every weight is 0, which rewards nothing: give one of code, math another"):
        load_rewards(["code=0", "math=0"])
    assert len(load_rewards(["code=0", "math"]).rewards) == 2


def test_a_folder_of_equals_signs(tmp_path: Path) -> None:
    folder = tmp_path / "lr=1e-3"
    folder.mkdir()
    (folder / "mine.py").write_text("def f(completions): return [1.0]\n")
    rewards = load_rewards([f"{folder}/mine.py:f=0.5", "number=2"])
    assert [(reward.name, reward.weight) for reward in rewards.rewards] == [("f", 0.5), ("number", 2.0)]
