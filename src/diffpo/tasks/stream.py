"""Seeded prompt streams: the difficulty dial, one generator an index, and the side of the split a problem is on."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from random import Random
from typing import get_args

from diffpo.config import TaskConfig, suggest
from diffpo.tasks.base import Split

Span = tuple[int, int]

TEST_SHARE = 0.1
"""Share of the problems that belong to the test split, where it is drawn."""


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


def held_out(*parts: object) -> bool:
    """Whether a problem belongs to the test split, as one in ten does: those of the same `parts` share their side."""
    return stable_key(*parts) < TEST_SHARE * 2**62


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
