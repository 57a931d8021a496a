"""Reward functions by name: the user's own, found in their file, and the built-in ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from diffpo.config import suggest
from diffpo.config.own import find_in_file
from diffpo.rewards.builtin import BUILTIN
from diffpo.rewards.calls import Reward, Rewards


def load_rewards(specs: Sequence[str]) -> Rewards:
    """The rewards that the specs name; ValueError where one is not found, or two have one name."""
    rewards = [parse_reward(spec) for spec in specs]
    names = [reward.name for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"task.reward: two rewards are called {name!r}: rename one, its name is its metric")
    return Rewards(tuple(rewards))


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
    if path:
        function = find_in_file(Path(path), name, "function", "task.reward takes PATH.py:FUNCTION")
        return Reward(name, function, value)
    if name not in BUILTIN:
        raise ValueError(
            f"task.reward {spec!r}: no built-in reward{suggest(name, BUILTIN)}; your own: PATH.py:FUNCTION"
        )
    return BUILTIN[name]._replace(weight=value)
