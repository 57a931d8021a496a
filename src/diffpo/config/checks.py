"""What the configs refuse bad values with: one line that names the knob and the mend."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator
from functools import cache
from numbers import Integral, Real
from os import PathLike, fspath
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from diffpo.config.elsewhere import ELSEWHERE

MAX_COUNT = 10**9
"""No count is larger: what is counted would not end."""


def suggest(wrong: str, names: Iterable[str]) -> str:
    """The end of an error line: the nearest allowed name, and all of them when they are few."""
    names = list(names)
    return nearest(wrong, names) + (f" (allowed: {', '.join(names)})" if len(names) <= 12 else "")


def nearest(wrong: str, names: Iterable[str]) -> str:
    """The same without the list of all."""
    near = difflib.get_close_matches(wrong, list(names), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest_key(wrong: str, cls: type, whole: type | None = None) -> str:
    """The same for a key that `cls` lacks: where else `whole`, the config that it is a section of, has that knob.

    Or the knob that other trainers call so.
    """
    found, example = places(whole or cls, wrong)
    return f"; did you mean {' or '.join(map(repr, found))}{example}?" if found else suggest(wrong, hints_of(cls))


def places(cls: type, wrong: str) -> tuple[list[str], str]:
    """The knobs of a config, by dotted name, that `wrong` names here or elsewhere; what to write, where that says."""
    name, _, example = ELSEWHERE.get(wrong, wrong).partition(" = ")
    options = ([knob for knob in knobs_of(cls) if f".{knob}".endswith(f".{one}")] for one in name.split(" | "))
    found = next(filter(None, options), [])
    return found, f", such as {example}" if example and found else ""


def knobs_of(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of the knobs of a config and its sections."""
    for name, hint in hints_of(cls).items():
        if section := section_of(hint):
            yield from knobs_of(section, f"{prefix}{name}.")
        else:
            yield prefix + name


def check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def expect(kind: type, value: object, name: str, mend: str) -> None:
    """ValueError where an argument is of another kind: a name or a path in a config's or a policy's place, say."""
    check(isinstance(value, kind), f"{name} must be a {kind.__name__}, got {value!r:.60}: {mend}")


def bound(config: Any, section: str, names: str, relation: Literal[">", ">="], low: int, finite: bool = False) -> None:
    """ValueError unless each of the named knobs, None aside, is `relation` `low`, and not infinite if `finite`."""
    for name in names.split():
        value = getattr(config, name)
        inside = value is None or (value > low if relation == ">" else value >= low)
        check(inside, f"{section}{name} must be {relation} {low}, got {value}")
        check(not finite or value != math.inf, f"{section}{name} must be finite, got {value}")
        check(type(value) is not int or value <= MAX_COUNT, f"{section}{name} must be <= {MAX_COUNT}, got {value}")


def bound_temperature(config: Any, section: str, name: str, greedy: bool = True) -> None:
    """ValueError for one that fp32 logits cannot be divided by: what is banned would be drawn, or nothing likely."""
    value = getattr(config, name)
    inside = 1e-6 <= value <= 1e6 or (greedy and value == 0)
    zero = "0, which is greedy, or " if greedy else ""
    check(inside, f"{section}{name} must be {zero}between 1e-6 and 1e6, got {value}")


def check_kinds(config: Any, section: str = "") -> None:
    """Values are what files give: lists become tuples, whole numbers floats where those are wanted, paths text.

    ValueError names a knob of another type, which Python lets pass.
    """
    for name, hint in hints_of(type(config)).items():
        value, whole = getattr(config, name), section + name
        if kind := section_of(hint):
            check(isinstance(value, kind), f"{whole} takes {kind.__name__}, got {value!r}")
        else:
            listed = get_origin(hint) is not tuple or isinstance(value, list | tuple)
            check(listed, f"{whole} takes a list: [{value!r}]")
            object.__setattr__(config, name, convert(hint, value, whole))


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a config's fields."""
    return get_type_hints(cls)


def section_of(hint: Any) -> type | None:
    """The config that a field of this type, or of a union with it, holds; None for a value."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return next((cast(type, kind) for kind in kinds if dataclasses.is_dataclass(kind)), None)


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as type `hint`: the few types that a knob may have. ValueError names the knob, by `where`."""
    if dataclasses.is_dataclass(hint):
        raise ValueError(f"{where} is a table: write [{where}] with its keys below")
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in args:
            return None
        lists = [kind for kind in args if get_origin(kind) is tuple and isinstance(value, list | tuple)]
        return convert((*lists, *args)[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ValueError(f"{where} takes {len(args)} values, got {value!r}")
        return tuple(convert(args[0], item, where) for item in value)
    if origin is Literal and value in args:
        return value
    if hint in (int, float) and isinstance(value, Real) and type(value) is not bool:  # numpy's are numbers too
        value = int(value) if isinstance(value, Integral) else float(value)
    if hint is float and (isinstance(value, float) or (type(value) is int and abs(value) < 2**63)):
        return float(value)
    if hint is str and isinstance(value, PathLike):
        return fspath(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    names = {Literal: f"one of {', '.join(map(str, args))}", tuple: "a list"}
    wanted = names.get(origin) or getattr(hint, "__name__", "")
    raise ValueError(f"{where} must be {wanted}, got {value!r}")
