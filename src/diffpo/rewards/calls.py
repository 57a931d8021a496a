"""Reward functions of TRL's signature, called with a group: all completions of one prompt.

Coroutines of all groups run together, from the moment that a group is there. Plain functions are called one after the
other, in the order of the prompts, by the thread that asks for the verdicts: they need not be safe to call from two.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import inspect
import math
import numbers
import threading
import traceback
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from diffpo.config import suggest
from diffpo.types import Attempts, Judged, Prompt, Verdict

RewardFunction = Callable[..., Any]
"""f(prompts, completions, **columns) -> a number or None for each completion of a group; plain or async."""
GIVEN = ("prompts", "completions", "completion_ids", "trainer_state", "log_metric", "log_extra")
"""What a run gives to reward functions beside the columns of the row; no column may have such a name."""
MAX_REWARD = 1e18
"""Largest size of a reward: its square, of which deviations are made, has room in fp32."""


@dataclass(frozen=True)
class TrainerState:
    """Where training stands, for reward functions that ask; step 0 of 0 outside of a run."""

    global_step: int = 0
    max_steps: int = 0


class Reward(NamedTuple):
    """A reward function with its name and weight."""

    name: str
    function: RewardFunction
    weight: float = 1.0
    columns: tuple[str, ...] = ()
    """Of a built-in: it judges by one of these, and leaves out the completions of a row that has none."""
    check: Callable[[Mapping[str, Any]], None] | None = None
    """Of a built-in: ValueError for a row's columns that it could never judge by."""

    def judges(self, columns: Mapping[str, Any]) -> bool:
        """Whether a row of these columns has what it judges by."""
        return not self.columns or any(columns.get(name) is not None for name in self.columns)

    @property
    def is_async(self) -> bool:
        """Whether calling it returns a coroutine."""
        call = getattr(type(self.function), "__call__", None)  # noqa: B004  # of an object that is called
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def takes(self, names: Collection[str]) -> set[str]:
        """Which of the arguments on offer the function takes; ValueError if it needs one that is not among them."""
        parameters = inspect.signature(self.function).parameters.values()
        takes_all = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters)
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if lacks := [p.name for p in named if p.default is p.empty and p.name not in names]:
            columns = ", ".join(name for name in names if name not in GIVEN) or "none"
            near = suggest(lacks[0], names).partition(" (")[0]
            raise ValueError(f"reward {self.name!r} takes {lacks[0]!r}, which is no column (columns: {columns}){near}")
        return set(names) if takes_all else {parameter.name for parameter in named} & set(names)


@dataclass(frozen=True)
class Rewards:
    """Weighted rewards of one task."""

    rewards: tuple[Reward, ...]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """ValueError names the first row that reward functions could not be called with, or never judge by."""
        kinds: dict[tuple[str, ...], Prompt] = {}
        for prompt in prompts:
            kinds.setdefault(tuple(prompt.columns), prompt)
        for columns, prompt in kinds.items():
            for name in columns:
                if name in GIVEN:
                    raise ValueError(
                        f"{where(prompt)}: column {name!r} would hide what the run gives to rewards: rename it"
                    )
            for reward in self.rewards:
                reward.takes((*GIVEN, *columns))
        for prompt in prompts:
            self._check_references(prompt)

    def _check_references(self, prompt: Prompt) -> None:
        """What built-in rewards judge by must be there, for one of them at least, and make sense to those it is for."""
        able = [reward for reward in self.rewards if reward.judges(prompt.columns)]
        if not able:
            wanted = " or ".join(sorted({name for reward in self.rewards for name in reward.columns}))
            raise ValueError(f"{where(prompt)}: no column {wanted}, so that no reward can judge its completions")
        for reward in able:
            try:
                if reward.check:
                    reward.check(prompt.columns)
            except ValueError as error:
                raise ValueError(f"{where(prompt)}: reward {reward.name!r}: {error}") from None

    def begin(self, attempts: Attempts, state: TrainerState) -> Call:
        """Start on a group."""
        return Call(self.rewards, attempts, state)


@dataclass
class Call:
    """Reward functions at work on one group; coroutines have begun."""

    rewards: tuple[Reward, ...]
    attempts: Attempts
    state: TrainerState
    found: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for reward in self.rewards:
            if reward.is_async:
                self.found[reward.name] = _submit(_wait(reward.function(**self._arguments(reward))))

    def run_plain(self) -> None:
        """Call the functions that are no coroutines."""
        for reward in self.rewards:
            if not reward.is_async:
                try:
                    with contextlib.chdir("."), torch_as_it_was():  # the run's paths begin where it began
                        found = reward.function(**self._arguments(reward))
                except (Exception, SystemExit) as error:
                    raise self._failure(reward, error) from error
                self.found[reward.name] = _submit(_wait(found)) if inspect.isawaitable(found) else found

    def cancel(self) -> None:
        """Stop the coroutines that still run."""
        for found in self.found.values():
            if isinstance(found, Future):
                found.cancel()

    def finish(self) -> Judged:
        """Verdicts once all functions are through.

        The reward is the weighted sum over the functions that do not return None; each value is a part under its name.
        Right if the value of the first function that judges such rows is at least 1. A part is NaN where its function
        returns None; the reward is None, which leaves the completion out, where all of them do that have a weight.
        ValueError names reward, row and value.
        """
        first = next((r for r in self.rewards if r.judges(self.attempts.prompt.columns)), self.rewards[0])
        values: dict[str, list[float]] = {}
        for reward in self.rewards:
            found = self.found[reward.name]
            try:
                found = found.result() if isinstance(found, Future) else found
            except Exception as error:
                raise self._failure(reward, error) from error
            values[reward.name] = self._read(reward.name, found)
        verdicts = []
        for index in range(len(self.attempts.texts)):
            parts = {name: found[index] for name, found in values.items()}
            counted = [r.weight * parts[r.name] for r in self.rewards if r.weight and not math.isnan(parts[r.name])]
            total = math.fsum(counted) if counted else None
            if total is not None and abs(total) > MAX_REWARD:
                raise ValueError(f"{where(self.attempts.prompt)}: weighted rewards sum to {total:g}: lower the weights")
            extra = {name: column[index] for name, column in self.extra.items()}
            verdicts.append(Verdict(parts[first.name] >= 1.0, total, parts, extra))
        return Judged(verdicts, {name: fmean(logged) for name, logged in self.metrics.items()})

    def _arguments(self, reward: Reward) -> dict[str, Any]:
        """What the function takes of columns and GIVEN, in lists as long as the group, its own to change."""
        prompt, size = self.attempts.prompt, len(self.attempts.texts)
        answers = [prompt.prefill + text for text in self.attempts.texts]
        offered = {name: [value] * size for name, value in prompt.columns.items()} | {
            "prompts": [prompt.asked] * size,
            "completions": [[{"role": "assistant", "content": answer}] for answer in answers]
            if prompt.messages
            else answers,
            "completion_ids": [list(ids) for ids in self.attempts.tokens],
        }
        given = {"trainer_state": self.state, "log_metric": self._log_metric, "log_extra": self._log_extra}
        names = reward.takes((*offered, *given))
        return {name: copy.deepcopy(value) for name, value in offered.items() if name in names} | {
            name: value for name, value in given.items() if name in names
        }

    def _log_metric(self, name: str, value: float) -> None:
        """Log a number of the group; a step's metric is the mean over its groups."""
        number = number_of(value)
        if number is None or not math.isfinite(number):
            raise ValueError(f"log_metric({name!r}, {value!r}): not a finite number")
        self.metrics.setdefault(str(name), []).append(number)

    def _log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Keep a value beside each completion of the group."""
        if len(values) != len(self.attempts.texts):
            raise ValueError(f"log_extra({column!r}): {len(values)} values for {len(self.attempts.texts)} completions")
        self.extra[str(column)] = [_recorded(value) for value in values]

    def _read(self, name: str, found: Any) -> list[float]:
        """A function's values, NaN for None."""
        size, said = len(self.attempts.texts), f"reward {name!r} on {where(self.attempts.prompt)} returned"
        wanted = f"not a list of {size}, a number or None for each completion"
        values, numbers = _plain(found), list[float]()
        if isinstance(values, str | bytes | Mapping | Set) or not isinstance(values, Collection):
            raise ValueError(f"{said} {found!r:.80}: {wanted}")
        if len(values) != size:
            raise ValueError(f"{said} {len(values)} values: {wanted}")
        for index, value in enumerate(values):
            number = math.nan if value is None else number_of(value)
            if number is None or (value is not None and not abs(number) <= MAX_REWARD):
                raise ValueError(
                    f"{said} {value!r:.80} for completion {index}: not a finite number (within {MAX_REWARD:g}), nor "
                    "None, which leaves a completion out"
                )
            numbers.append(number)
        return numbers

    def _failure(self, reward: Reward, error: BaseException) -> ValueError:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return ValueError(f"reward {reward.name!r} on {where(self.attempts.prompt)} raised {said}{_line_of(error)}")


@contextlib.contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Torch's gradients, dtype and device are afterwards what they were.

    A user's code sets them for a model of its own, and the run would go on with them.
    """
    gradients, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
    finally:
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)


def where(prompt: Prompt) -> str:
    """The row that a prompt comes from, else its id."""
    return prompt.place or f"prompt {prompt.id!r}"


def _recorded(value: Any) -> Any:
    """As a row of JSON holds it."""
    value = _plain(value)
    return value if isinstance(value, str | int | float | None) else str(value)


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One, in a thread, for the life of the process: a client that a coroutine opens belongs to its loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="diffpo coroutines", daemon=True).start()
    return loop


def _submit(coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Start a coroutine beside those that run already, while other work goes on."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


async def _wait(awaitable: Any) -> Any:
    """What comes of it. An exit becomes an error: it would end the loop, and those who wait would wait for ever."""
    try:
        return await awaitable
    except SystemExit as error:
        raise RuntimeError(f"SystemExit: {error}").with_traceback(error.__traceback__) from error


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists and numbers."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
    return value.tolist() if isinstance(value, np.ndarray | np.generic | torch.Tensor) else value


def number_of(value: Any) -> float | None:
    """A number, whatever its type; None for what is none, text among it."""
    value = _plain(value)
    if not isinstance(value, numbers.Number) or isinstance(value, complex):
        return None
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except OverflowError:
        return math.inf


def _line_of(error: BaseException) -> str:
    """The line of the user's file that an error comes from, " (rewards.py:7)"."""
    frames = traceback.extract_tb(error.__traceback__)
    own = max((index for index, frame in enumerate(frames) if frame.filename == __file__), default=-1)
    theirs = [frame for frame in frames[own + 1 :] if frame.filename == frames[own + 1].filename]
    return f" ({theirs[-1].filename}:{theirs[-1].lineno})" if theirs else ""
