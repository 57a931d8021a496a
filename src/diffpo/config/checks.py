"""What the configs refuse bad values with: one line that names the knob and the mend."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable
from typing import Any, Literal


def suggest(wrong: str, names: Iterable[str]) -> str:
    """The end of an error line: the nearest allowed name, and all of them when they are few."""
    names = list(names)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return hint + (f" (allowed: {', '.join(names)})" if len(names) <= 12 else "")


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def bound(config: Any, section: str, names: str, relation: Literal[">", ">="], low: int, finite: bool = False) -> None:
    """Of each of the names; `finite` where infinity says nothing that could be computed."""
    for name in names.split():
        value = getattr(config, name)
        inside = value is None or (value > low if relation == ">" else value >= low)
        check(inside, f"{section}{name} must be {relation} {low}, got {value}")
        check(not finite or value != math.inf, f"{section}{name} must be finite, got {value}")


def bound_temperature(config: Any, section: str, name: str, greedy: bool = True) -> None:
    """Beyond these fp32 holds no logits divided by it: what is banned would be drawn, or nothing have a probability."""
    value = getattr(config, name)
    inside = 1e-6 <= value <= 1e6 or (greedy and value == 0)
    zero = "0, which is greedy, or " if greedy else ""
    check(inside, f"{section}{name} must be {zero}between 1e-6 and 1e6, got {value}")


def check_kinds(config: Any, section: str = "") -> None:
    """Slips that Python lets pass: a bare value for a section or a list. Lists become tuples, as files give them."""
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), section + field.name
        if isinstance(value, list):
            object.__setattr__(config, field.name, tuple(value))
        elif isinstance(field.default, tuple):
            check(isinstance(value, tuple), f"{name} takes a list: [{value!r}]")
        elif field.default_factory is not dataclasses.MISSING:
            kind = type(field.default_factory())
            check(isinstance(value, kind), f"{name} takes {kind.__name__}, got {value!r}")
