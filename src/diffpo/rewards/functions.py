"""Reward functions by name: the user's own, found in their file, and those that are built in.

`number` and `math` compare the final answer with a column, `code` runs tests, `format` looks at the form of the reply;
`task` is the verdict of a task that has one of its own.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.config import suggest
from diffpo.config.own import find_in_file
from diffpo.grading.grade import formatted
from diffpo.grading.maths import strict
from diffpo.grading.references import read_number_reference, read_reference
from diffpo.rewards import code as sandbox
from diffpo.rewards.calls import GIVEN, Reward, Rewards, torch_as_it_was
from diffpo.types import Prompt, Verdict

Verify = Callable[[Prompt, str], Verdict]
"""A task's own verdict on a completion, from the columns of its prompt."""


def load_rewards(specs: Sequence[str], verify: Verify | None = None) -> Rewards:
    """The rewards that the specs name, `task` being `verify`; ValueError where one is not found, or names are alike."""
    rewards = [parse_reward(spec, verify) for spec in specs]
    names = [reward.name for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"task.reward: two rewards are called {name!r}: rename one, its name is its metric")
    if not any(reward.weight for reward in rewards):
        raise ValueError(
            f"task.reward: every weight is 0, which rewards nothing: give one of {', '.join(names)} another"
        )
    return Rewards(tuple(rewards))


def parse_reward(spec: str, verify: Verify | None = None) -> Reward:
    """Read "PATH.py:FUNCTION", "PATH.py:FUNCTION=WEIGHT" or the name of a built-in; ValueError says what is wrong."""
    builtin = BUILTIN if verify is None else BUILTIN | {"task": Reward("task", _verdict_of(verify))}
    stem, own, rest = spec.rpartition(".py:")  # a folder's name may hold equals signs
    path = stem + own[:-1]
    name, equals, weight = rest.partition("=")
    try:
        value = float(weight) if equals else 1.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not name.isidentifier():
        raise ValueError(
            f"task.reward {spec!r}: write PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT, or one of {', '.join(builtin)}"
        )
    if path:
        with torch_as_it_was():
            function = find_in_file(Path(path), name, "function", "task.reward takes PATH.py:FUNCTION")
        if isinstance(function, type):
            raise ValueError(f"task.reward {spec!r}: {name} is a class: name a function, or an instance of it")
        return Reward(name, function, value)
    if name == "task" and verify is None:
        raise ValueError("task.reward 'task': rows of your own have no verdict of their own: name what judges them")
    if name not in builtin:
        raise ValueError(
            f"task.reward {spec!r}: no built-in reward{suggest(name, builtin)}; your own: PATH.py:FUNCTION"
        )
    return builtin[name]._replace(weight=value)


def _verdict_of(verify: Verify) -> Callable[..., Coroutine[Any, Any, list[float | None]]]:
    async def task(completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """The reward of the task's own verdict, each in a thread."""
        row = {name: values[0] for name, values in columns.items() if name not in GIVEN}  # of a group all have one
        prompt = Prompt("", "", columns=row)
        verdicts = (asyncio.to_thread(verify, prompt, text_of(completion)) for completion in completions)
        return [verdict.reward for verdict in await asyncio.gather(*verdicts)]

    return task


def form(completions: Sequence[Any]) -> list[float]:
    """1 where the reply has the form that the prompts of the published tasks ask for, each tag once."""
    return [float(formatted(text_of(completion))) for completion in completions]


async def number(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any]) -> list[float | None]:
    """1 where the final answer is the number of the column `answer`, as in GSM8K."""
    return await _compare(read_number_reference, prompts, completions, answer)


async def maths(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any]) -> list[float | None]:
    """1 where the final answer has the value of the column `answer`, as in MATH-500."""
    return await _compare(read_reference, prompts, completions, answer)


async def _compare(read: Callable[[Any], str], *columns: Sequence[Any]) -> list[float | None]:
    """Rewards of each row in a thread: expressions are compared in processes, one a core, which threads wait for."""

    def judge(prompt: Any, completion: Any, truth: Any) -> float | None:
        if truth is None:
            return None
        return strict({"answer": read(truth), "problem": text_of(prompt)}, text_of(completion)).reward

    return await asyncio.gather(*(asyncio.to_thread(judge, *row) for row in zip(*columns, strict=True)))


async def code(
    completions: Sequence[Any],
    tests: Sequence[Any] | None = None,
    test: Sequence[Any] | None = None,
    entry_point: Sequence[Any] | None = None,
) -> list[float | None]:
    """The share of the row's `tests` (or `test`, as HumanEval has it) that the code passes."""
    loop, none = asyncio.get_running_loop(), [None] * len(completions)

    async def share(completion: Any, *row: Any) -> float | None:
        wanted = _tests(*row)
        if wanted is None:
            return None
        program = sandbox.code_of(text_of(completion))
        return await loop.run_in_executor(sandbox.pool(), sandbox.share_passed, program, *wanted)

    rows = zip(completions, tests or none, test or none, entry_point or none, strict=True)
    return await asyncio.gather(*(share(*row) for row in rows))


def _tests(tests: Any = None, test: Any = None, entry_point: Any = None) -> tuple[Any, Any] | None:
    """A row's tests and the function that they are of; None where it has no tests."""
    tests = test if tests is None else tests
    return None if tests is None else (tests, entry_point)


def _check_code(columns: Mapping[str, Any]) -> None:
    if wanted := _tests(*map(columns.get, ("tests", "test", "entry_point"))):
        sandbox.read_tests(*wanted)


def text_of(message: Any) -> str:
    """The text of a prompt or completion, be it a text or a list of chat messages."""
    return message if isinstance(message, str) else "\n".join(str(part["content"]) for part in message)


def _check(read: Callable[[Any], object], what: str) -> Callable[[Mapping[str, Any]], None]:
    """A check that the column `answer` is read."""

    def check(columns: Mapping[str, Any]) -> None:
        try:
            read(columns["answer"])
        except ValueError:
            raise ValueError(f"column 'answer' holds no {what}, got {str(columns['answer'])[-60:]!r}") from None

    return check


BUILTIN: dict[str, Reward] = {
    "number": Reward("number", number, columns=("answer",), check=_check(read_number_reference, "number")),
    "math": Reward("math", maths, columns=("answer",), check=_check(read_reference, "answer in text")),
    "code": Reward("code", code, columns=("tests", "test"), check=_check_code),
    "format": Reward("format", form),
}
