"""Seeded prompt streams: the difficulty dial, one generator an index, and a split over a reasoning-gym data set."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple, get_args

from diffpo.config import TaskConfig, suggest
from diffpo.tasks.base import Split
from diffpo.types import Prompt

Span = tuple[int, int]

TEST_SHARE = 0.1
"""Share of the problems that belong to the test split, where it is drawn."""
MAX_DRAWS = 1000
"""Draws before a split counts as empty; one that holds a tenth of the problems is missed with chance 1e-46."""


def stable_key(*parts: object) -> int:
    """62 bits that depend on `parts` alone: not on the process, the platform or Python's hash seed."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def require_reasoning_gym() -> None:
    """ValueError names the extra where it is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError("reasoning-gym is not installed: pip install 'diffpo[reasoning-gym]'")


def check_split(split: str) -> None:
    """ValueError if there is no such split."""
    if split not in get_args(Split):
        raise ValueError(f"unknown split {split!r}{suggest(split, get_args(Split))}")


def index_rng(task: str, seed: int, split: Split, index: int) -> Random:
    """The generator of prompt `index`: every index has its own, so no prompt depends on the ones before it."""
    check_split(split)
    return Random(stable_key(task, seed, split, index))


def held_out(seed: int, canonical: object) -> bool:
    """Whether a problem belongs to the test split, as one in ten does; what is `canonical` alike shares its side."""
    return stable_key(seed, canonical) < TEST_SHARE * 2**62


@dataclass(frozen=True)
class Dial:
    """Difficulty ranges of the levels, both ends included."""

    easy: Span
    hard: Span
    hard_share: float

    @classmethod
    def from_config(cls, config: TaskConfig, easy: Span, hard: Span, limits: Span) -> Dial:
        """The config's ranges, or the task's own `easy` and `hard` where it has none; ValueError outside `limits`."""
        dial = cls(easy=config.easy or easy, hard=config.hard or hard, hard_share=config.hard_share)
        for level, (low, high) in (("easy", dial.easy), ("hard", dial.hard)):
            if low < limits[0] or high > limits[1]:
                raise ValueError(
                    f"task.{level} of {config.name} must lie within {limits[0]} and {limits[1]}, got {(low, high)}"
                )
        return dial

    def __str__(self) -> str:
        (low, high), (hard_low, hard_high) = self.easy, self.hard
        return f"easy {low} to {high}, hard {hard_low} to {hard_high}, {self.hard_share:.0%} hard"

    @property
    def top(self) -> int:
        """The largest difficulty of any level."""
        return max(self.easy[1], self.hard[1])

    def draw(self, rng: Random) -> tuple[str, int]:
        """A level and a difficulty in its range."""
        level, span = ("hard", self.hard) if rng.random() < self.hard_share else ("easy", self.easy)
        return level, rng.randint(*span)


class Problem(NamedTuple):
    """A reasoning-gym item in the words of a task."""

    text: str
    canonical: object
    """What the split goes by: problems that are the same up to a rewriting share it, and so their side."""
    columns: Mapping[str, object]


@dataclass(frozen=True)
class GymStream:
    """Train and test prompts of `task`, drawn from a reasoning-gym data set.

    Item n of such a data set is a function of its seed + n alone, whatever its size, so that seeds 0 and 1 share all
    items but one; drawing n from 62 bits keeps seeds and prompts apart. A draw on the wrong side of the split is
    dropped and the next one is tried.
    """

    task: str
    dataset: str
    seed: int
    dial: Dial
    options: Callable[[int], Mapping[str, int]]
    """The data set's options at a difficulty."""
    read: Callable[[Mapping[str, Any]], Problem | None]
    """An item's problem, or None to drop it."""
    _seen: dict[tuple[Split, int], Prompt] = field(default_factory=dict)

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1; each is made once, because an item takes milliseconds."""
        for index in range(start, start + num):
            if (split, index) not in self._seen:
                self._seen[split, index] = self._draw(split, index)
        return [self._seen[split, index] for index in range(start, start + num)]

    def _draw(self, split: Split, index: int) -> Prompt:
        rng = index_rng(self.task, self.seed, split, index)
        level, difficulty = self.dial.draw(rng)
        items = gym_items(self.dataset, **self.options(difficulty))
        for _ in range(MAX_DRAWS):
            try:
                problem = self.read(items[rng.getrandbits(62)])
            except ValueError:  # reasoning-gym found no target in range for the numbers it drew
                continue
            if problem is not None and self._side(problem) == split:
                return Prompt(f"{self.task}-{split}-{index}", problem.text, level, problem.columns)
        raise ValueError(f"{self.task} at difficulty {difficulty} has no {split} problems: widen task.{level}")

    def _side(self, problem: Problem) -> Split:
        return "test" if held_out(self.seed, problem.canonical) else "train"


@functools.cache
def gym_items(dataset: str, **options: int) -> Any:
    require_reasoning_gym()
    import reasoning_gym  # takes a second, so only who draws a prompt pays

    return reasoning_gym.create_dataset(dataset, seed=0, size=2**62, **options)
