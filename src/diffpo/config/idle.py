"""Knobs that would do nothing: refused where someone sets them, dropped where a recipe did and other flags win."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Self, TypeVar, cast

from diffpo.config.checks import suggest_key

C = TypeVar("C")
T = TypeVar("T")
Idle = Mapping[str, str | bool]
"""Knobs, or a section for all of its knobs, to why they do nothing; False where they do something."""


class IdleKnobs(ValueError):
    """Knobs that are set and do nothing, by dotted name, with the reason."""

    def __init__(self, why: Mapping[str, str]) -> None:
        super().__init__("{} does nothing {}: leave it out".format(*next(iter(why.items()))))
        self.why = dict(why)


class Knobs:
    """A config that knows which of its knobs do nothing beside the others, and where one belongs that it lacks."""

    def __new__(cls, *values: Any, **named: Any) -> Self:
        if lacks := sorted(named.keys() - {field.name for field in fields(cast(Any, cls))}):
            raise TypeError(f"{cls.__name__} has no {lacks[0]!r}{suggest_key(lacks[0], cls)}")
        return super().__new__(cls)

    def idle(self) -> Idle:
        """Knobs that do nothing as the others stand."""
        return {}


def refuse_idle(config: Knobs, section: str = "") -> None:
    """IdleKnobs for those that are not at their defaults."""
    found = {name: why for name, why in _own(config) if _value(config, name) != default_of(type(config), name)}
    if found:
        raise IdleKnobs({section + name: why for name, why in found.items()})


def idle_knobs(config: Any, prefix: str = "") -> dict[str, str]:
    """All idle knobs of a config and its sections, set or not, by dotted name."""
    found = {prefix + name: why for name, why in _own(config)}
    for field in fields(config):
        section = getattr(config, field.name)
        if is_dataclass(section):
            found |= idle_knobs(section, f"{prefix}{field.name}.")
    return found


def over(build: Callable[[C], T], base: C, said: Collection[str]) -> T:
    """build(base), where those values of `base` give way that what was `said` over it (dotted names) makes idle.

    A recipe that learns its sampler has thresholds; who says a fixed sampler need not take back each of them. IdleKnobs
    if a knob that was said is idle.
    """
    while True:
        try:
            return build(base)
        except IdleKnobs as idle:
            unsaid = idle.why.keys() - set(said)
            if not unsaid or base is None:
                raise IdleKnobs({name: why for name, why in idle.why.items() if name in said} or idle.why) from None
            base = _at_defaults(base, unsaid)


def default_of(cls: type, name: str) -> Any:
    """What a knob, by dotted name, is where nobody sets it."""
    first, _, rest = name.partition(".")
    field = next(field for field in fields(cls) if field.name == first)
    value = field.default if field.default_factory is MISSING else field.default_factory()
    return _value(value, rest) if rest else value


def _own(config: Any) -> Iterator[tuple[str, str]]:
    """Idle knobs that the config itself speaks of; a section is spelled out."""
    for names, why in config.idle().items() if isinstance(config, Knobs) else ():
        for name in names.split() if why else ():
            value = _value(config, name)
            for knob in [f"{name}.{field.name}" for field in fields(value)] if is_dataclass(value) else [name]:
                yield knob, str(why)


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config


def _at_defaults(config: C, names: Iterable[str]) -> C:
    """A copy with these knobs at their defaults; it is no config to run, for what is said over it is yet to come."""
    changed = copy.copy(config)
    for name in names:
        value, (*path, knob) = default_of(type(config), name), name.split(".")
        place: Any = changed
        for part in path:
            section = copy.copy(getattr(place, part))
            object.__setattr__(place, part, section)
            place = section
        object.__setattr__(place, knob, value)
    return changed
