"""Rewards that the user brings: functions of TRL's signature, several with weights, and a few that are built in."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from diffpo.config import suggest
from diffpo.grading.answers import final_answer
from diffpo.grading.equality import same_answer
from diffpo.grading.graders import gsm8k
from diffpo.rewards.code import code
from diffpo.types import Prompt, Verdict

RewardFunction = Callable[..., Any]
"""f(prompts, completions, **columns) -> a number or None for each completion; plain or async."""


def number(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any]) -> list[float]:
    """1 where the final answer is the number of the column `answer`, as in GSM8K."""
    pairs = zip(completions, answer, strict=True)
    return [gsm8k({"answer": truth}, text_of(completion)).reward for completion, truth in pairs]


def maths(prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[Any]) -> list[float]:
    """1 where the final answer has the value of the column `answer`, as in MATH-500."""
    rows = zip(prompts, completions, answer, strict=True)
    return [
        float(same_answer(final_answer(text_of(completion)) or "", str(truth), text_of(prompt)))
        for prompt, completion, truth in rows
    ]


BUILTIN: dict[str, RewardFunction] = {"number": number, "math": maths, "code": code}


def text_of(message: Any) -> str:
    """The text of a prompt or completion, be it a text or a list of chat messages."""
    return message if isinstance(message, str) else "\n".join(str(part["content"]) for part in message)


class Reward(NamedTuple):
    """A reward function with its name and weight."""

    name: str
    function: RewardFunction
    weight: float = 1.0


def parse_reward(spec: str) -> Reward:
    """Read "PATH.py:FUNCTION", "PATH.py:FUNCTION=WEIGHT" or the name of a built-in; ValueError says what is wrong."""
    target, equals, weight = spec.partition("=")
    path, _, name = target.rpartition(":")
    try:
        value = float(weight) if equals else 1.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not name.isidentifier() or (path and not path.endswith(".py")):
        raise ValueError(f"task.reward {spec!r}: write PATH.py:FUNCTION=WEIGHT, or one of {', '.join(BUILTIN)}")
    if not path and name not in BUILTIN:
        raise ValueError(
            f"task.reward {spec!r}: no built-in reward{suggest(name, BUILTIN)}; your own: PATH.py:FUNCTION"
        )
    return Reward(name, _find(Path(path), name) if path else BUILTIN[name], value)


def _find(path: Path, name: str) -> RewardFunction:
    functions = {key: value for key, value in vars(_load(path)).items() if callable(value) and not key.startswith("_")}
    if name not in functions:
        has = ", ".join(functions) or "no functions"
        raise ValueError(f"{path} has no function {name!r}{suggest(name, functions)}; it has {has}")
    return functions[name]


def _load(path: Path) -> ModuleType:
    """The user's file, run as Python runs a module."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; task.reward takes PATH.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} does not import: {error!r}") from error
    return module


def load_rewards(specs: Sequence[str]) -> Rewards:
    """The rewards that the specs name; ValueError where one is not found, or two have one name."""
    rewards = [parse_reward(spec) for spec in specs]
    names = [reward.name for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"task.reward: two rewards are called {name!r}: rename one, its name is its metric")
    return Rewards(tuple(rewards))


class Rewards(NamedTuple):
    """Weighted rewards of one task."""

    rewards: tuple[Reward, ...]

    def verdict(self, prompt: Prompt, completion: str) -> Verdict:
        """The weighted sum over the functions that do not return None; each value is a part under its name.

        Right if the first function's value is at least 1. A part is NaN where its function returns None; the reward is
        None, which leaves the completion out, where all of them do. A function that raises is reported with its row.
        """
        values = {reward.name: self._value(reward, prompt, completion) for reward in self.rewards}
        counted = [
            reward.weight * values[reward.name] for reward in self.rewards if not math.isnan(values[reward.name])
        ]
        first = next(iter(values.values()))
        return Verdict(first >= 1.0, math.fsum(counted) if counted else None, values)

    def _value(self, reward: Reward, prompt: Prompt, completion: str) -> float:
        columns = {name: [value] for name, value in prompt.columns.items() if name not in ("prompt", "place")}
        place = prompt.columns.get("place", prompt.id)
        asked: Any = prompt.columns.get("prompt", prompt.text)
        answered = prompt.prefill + completion
        chat = not isinstance(asked, str)
        arguments = {"prompts": [asked], "completions": [[_message(answered)] if chat else answered], **columns}
        try:
            values = _call(reward.function, arguments)
        except Exception as error:
            raise RuntimeError(f"reward {reward.name!r} raised {error!r} on {place}") from error
        if not isinstance(values, list | tuple) or len(values) != 1:
            raise RuntimeError(
                f"reward {reward.name!r} must return a list, a number for each completion, got {values!r}"
            )
        (value,) = values
        if value is None:
            return math.nan
        try:
            return float(value)
        except (TypeError, ValueError):
            raise RuntimeError(f"reward {reward.name!r} returned {value!r} on {place}: not a number or None") from None


def _message(text: str) -> Mapping[str, str]:
    return {"role": "assistant", "content": text}


def _call(function: RewardFunction, arguments: Mapping[str, Any]) -> Any:
    """Call with what the function takes: all columns if it has **kwargs, else those it names; await a coroutine."""
    parameters = inspect.signature(function).parameters.values()
    takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    found = function(**{name: value for name, value in arguments.items() if takes_all or name in names})
    if not inspect.isawaitable(found):
        return found

    async def wait() -> Any:
        return await found

    with ThreadPoolExecutor(1) as thread:  # the caller may have a running loop of its own, as notebooks do
        return thread.submit(asyncio.run, wait()).result()
