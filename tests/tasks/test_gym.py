"""reasoning-gym's data sets by name: streams, splits, scores in a process that can be killed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
from grading.hostile import HOSTILE

from diffpo.config import TaskConfig
from diffpo.rollout.judging import judge
from diffpo.tasks import gym, gym_worker, load_task, tiny_arithmetic
from diffpo.tasks.base import Task
from diffpo.types import Attempts


@pytest.fixture(scope="module", params=["gcd", "countdown", "word_sorting", "mini_sudoku"])
def task(request: pytest.FixtureRequest) -> Task:
    return load_task(f"reasoning_gym:{request.param}")


def test_prompts_depend_on_their_index_alone(task: Task) -> None:
    fresh = load_task(task.name)
    whole = fresh.prompts("train", 12)
    assert task.prompts("train", 4, start=8) == whole[8:] and copy.deepcopy(task).prompts("train", 12) == whole
    assert len({prompt.text for prompt in whole}) > 9
    assert {prompt.text for prompt in whole}.isdisjoint(prompt.text for prompt in task.prompts("test", 5))
    assert load_task(TaskConfig(name=task.name, seed=1)).prompts("train", 2) != whole[:2]


def test_answers_are_scored(task: Task) -> None:
    for prompt in task.prompts("test", 3):
        right = task.verify(prompt, f"\nSo.\n</reasoning>\n<answer>\n{prompt.columns['answer']}\n</answer>")
        assert right.correct and right.reward == 1.0 and right.parts == {"score": 1.0, "format": 1.0}
        assert not task.verify(prompt, "<answer>no</answer>").correct
        assert task.verify(prompt, "").reward == 0.0


def test_its_score_is_a_reward_beside_others() -> None:
    task = load_task(TaskConfig(name="reasoning_gym:simple_equations", reward=("task", "format=0.5")))
    (prompt,) = task.prompts("test", 1)
    texts = [f"<answer>{prompt.columns['answer']}</answer>", "</reasoning><answer>no</answer>"]
    (judged,) = judge(task, [Attempts(prompt, texts, [()] * 2)])
    assert [(verdict.correct, verdict.reward) for verdict in judged.verdicts] == [(True, 1.0), (False, 0.5)]


@pytest.mark.parametrize("dataset", ["simple_equations", "prime_factorization"])  # the latter's scorer raises on $
def test_decorations_do_not_count(dataset: str) -> None:
    task = load_task(f"reasoning_gym:{dataset}")
    prompt = task.prompts("train", 1)[0]
    for form in ("${}$", "**{}**", "`{}`", r"\({}\)"):
        answer = form.format(prompt.columns["answer"])
        assert task.verify(prompt, f"<answer>{answer}</answer>").reward == 1.0, answer


@pytest.mark.parametrize(
    ("dataset", "answers"),
    [
        ("coin_flip", ["0", "0."]),
        ("complex_arithmetic", ["nan", "nani"]),
        ("game_of_life_halting", ["perhaps"]),
        ("puzzle24", ["6*4*1*1", "24", "6*4*1*1.0"]),
    ],
)
def test_an_answer_that_fits_every_question_earns_nothing(dataset: str, answers: list[str]) -> None:
    task = load_task(f"reasoning_gym:{dataset}")
    for prompt in task.prompts("train", 3):
        rewards = [task.verify(prompt, f"<answer>{answer}</answer>").reward for answer in answers]
        assert rewards == [0.0] * len(answers)
        assert task.verify(prompt, f"<answer>{prompt.columns['answer']}</answer>").correct


def test_numbers_of_gsm_symbolic_are_read_as_those_of_gsm8k() -> None:
    found = {"answer": "1200", "question": "How many?"}
    judge = gym_worker.OURS["gsm_symbolic"]
    assert judge("1,200", found) and judge("$1,200", found)
    assert (
        not judge("-1200", found) and not judge("1200 or 1300", found) and not judge("1,200", found | {"answer": "1"})
    )


def test_items_do_not_depend_on_the_hash_seed() -> None:
    """Two processes with other hash seeds have the same prompts, and each scores the other's answers."""
    name = "isomorphic_strings"
    made = f"load_task('reasoning_gym:{name}').prompts('train', 3)"
    code = f"from diffpo.tasks import load_task; print([prompt.text for prompt in {made}])"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    task = load_task(f"reasoning_gym:{name}")
    prompts = task.prompts("train", 3)
    assert texts == {f"{[prompt.text for prompt in prompts]}\n"}
    for prompt in prompts:
        assert task.verify(prompt, f"<answer>{prompt.columns['answer']}</answer>").correct


def test_without_reasoning_gym_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    gym.dataset_names.cache_clear()
    tiny_arithmetic._items.cache_clear()
    for name in ("reasoning_gym:gcd", "tiny_arithmetic"):
        with pytest.raises(ValueError, match=r"pip install 'diffpo\[reasoning-gym\]'"):
            load_task(name).prompts("train", 1)


def test_hostile_answers_are_not_right(task: Task) -> None:
    prompt = task.prompts("test", 1)[0]
    for name in ("power", "long", "braces", "surrogate", "huge integer", "null bytes", "code", "infinity"):
        assert not task.verify(prompt, f"<answer>{HOSTILE[name]}</answer>").correct, name


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="reasoning-gym has no data set 'gdc'; did you mean 'gcd'"):
        load_task("reasoning_gym:gdc")
    with pytest.raises(ValueError, match="reasoning-gym has no data set ''"):
        load_task("reasoning_gym")
