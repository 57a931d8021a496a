"""How the process of a solution and the process of its tests talk: plain data in JSON, everything else by reference.

Numbers, text, lists and their like are copied. Any other object stays where it is: the other side holds a `Remote`,
whose attributes and methods are asked for. A `Remote` equals no plain data and makes none in arithmetic with any,
whatever its class says of itself, so that an answer has to be the value that a test compares it with. Standard library
alone.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import io
import json
import operator
import sys
from collections.abc import Callable, Mapping
from types import CoroutineType, MappingProxyType
from typing import Any, BinaryIO

MAX_MESSAGE = 2**26
"""Bytes of a message; a longer one is the end of the talk."""

COPIED: Mapping[type, tuple[Callable[..., Any], Callable[[Any], list[Any]]]] = MappingProxyType(
    {
        list: (lambda *items: list(items), list),
        tuple: (lambda *items: tuple(items), list),
        set: (lambda *items: set(items), list),
        frozenset: (lambda *items: frozenset(items), list),
        dict: (lambda *items: dict(items), lambda value: list(value.items())),
        bytes: (lambda text: text.encode("latin-1"), lambda value: [value.decode("latin-1")]),
        bytearray: (lambda text: bytearray(text, "latin-1"), lambda value: [value.decode("latin-1")]),
        complex: (complex, lambda value: [value.real, value.imag]),
        range: (range, lambda value: [value.start, value.stop, value.step]),
        fractions.Fraction: (fractions.Fraction, lambda value: [value.numerator, value.denominator]),
        decimal.Decimal: (decimal.Decimal, lambda value: [str(value)]),
        datetime.date: (datetime.date, lambda v: [v.year, v.month, v.day]),
        datetime.time: (datetime.time.fromisoformat, lambda value: [value.isoformat()]),
        datetime.datetime: (datetime.datetime.fromisoformat, lambda value: [value.isoformat()]),
        datetime.timedelta: (datetime.timedelta, lambda value: [value.days, value.seconds, value.microseconds]),
        collections.deque: (lambda *items: collections.deque(items), list),
        collections.Counter: (lambda *items: collections.Counter(dict(items)), lambda value: list(value.items())),
        collections.OrderedDict: (lambda *items: collections.OrderedDict(items), lambda value: list(value.items())),
        collections.defaultdict: (
            lambda *items: collections.defaultdict(None, items),
            lambda value: list(value.items()),
        ),
    }
)
"""Types that are copied, under their names: how one is made of its parts, and its parts."""
MADE = MappingProxyType({kind.__name__: make for kind, (make, _) in COPIED.items()})
PLAIN: dict[type, Callable[[Any], Any]] = {int: int.__int__, float: float.__float__, str: str.__str__}
"""What a number or text of a class of its own is, whatever that class says."""
BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]


def _swapped(do: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda own, other: do(other, own)


SPECIAL: dict[str, Callable[..., Any]] = {
    **{f"__{name}__": vars(builtins)[name] for name in ["str", "repr", "len", "iter", "next", "bool", "abs", "hash"]},
    **{f"__{name}__": vars(operator)[name] for name in ["neg", "pos", "invert", "getitem", "setitem", "delitem"]},
    **{f"__{name}__": vars(operator)[f"__{name}__"] for name in BINARY},
    **{f"__r{name}__": _swapped(vars(operator)[f"__{name}__"]) for name in BINARY},
    "__enter__": lambda own: type(own).__enter__(own),
    "__exit__": lambda own, *error: type(own).__exit__(own, *error),
}
"""What is done to a `Remote` by the side that has the object."""
ARITHMETIC = {f"__{prefix}{name}__" for name in BINARY for prefix in ("", "r")}
MEASURES = ("__abs__", "__bool__", "__len__")
COMPARED = ("eq", "lt", "le", "gt", "ge")


class Remote:
    """An object of the other side."""

    def __init__(self, peer: Peer, index: int) -> None:
        vars(self).update(_peer=peer, _index=index, _mixed=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)  # numpy and the like look for what an object may lay open of its memory
        return self._peer.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._peer.ask("set", self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._peer.ask("call", self, list(args), kwargs)

    def __instancecheck__(self, thing: Any) -> bool:
        return self._peer.ask("isinstance", self, thing) is True

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Remote) and self._peer.ask("eq", self, other) is True)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _compare(self, name: str, other: object) -> bool:
        if not isinstance(other, Remote):
            raise TypeError("an object that is no plain data has no order beside one that is")
        return self._peer.ask(name, self, other) is True


def _special(name: str) -> Callable[..., Any]:
    def do(own: Remote, *args: object) -> Any:
        found = own._peer.ask("special", own, name, *args)
        mixes = name in ARITHMETIC and not any(isinstance(arg, Remote) for arg in args)
        if isinstance(found, Remote):
            vars(found)["_mixed"] |= mixes
        elif mixes or (own._mixed and name in MEASURES):  # abs(found - 1.5) < 1e-6 would be what the object says
            raise TypeError("arithmetic of an object that is no plain data with plain data gives none")
        return found

    return do


for _name in SPECIAL:
    setattr(Remote, _name, _special(_name))
for _name in COMPARED[1:]:
    setattr(Remote, f"__{_name}__", lambda own, other, name=_name: own._compare(name, other))


class Peer:
    """One side of the talk. `allows(object, attribute)` says what the other side may reach."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, allows: Callable[[Any, str], bool]) -> None:
        self.source, self.sink, self.allows = source, sink, allows
        self.own: list[Any] = []
        """Objects that the other side refers to."""
        self.known: dict[int, int] = {}
        self.theirs: dict[int, Any] = {}

    def ask(self, action: str, *args: Any) -> Any:
        """What the other side answers; the error that it raises. Its own questions meanwhile are answered."""
        self._send([action, *map(self.encode, args)])
        while True:
            kind, *rest = self._receive()
            if kind == "value":
                value, changed, printed = rest
                sys.stdout.write(str(printed))
                for index, new in changed:
                    overwrite([*args[1], *args[2].values()][index], self.decode(new))
                return self.decode(value)
            if kind == "error":
                raise self._error(*rest)
            self.answer(kind, rest)

    def serve(self) -> None:
        """Answer until the other side is gone."""
        while True:
            action, *rest = self._receive()
            self.answer(action, rest)

    def answer(self, action: str, rest: list[Any]) -> None:
        """Do what is asked and send what comes of it."""
        printed, outside = io.BytesIO(), sys.stdout
        try:
            args = [self.decode(part) for part in rest]
            sys.stdout = io.TextIOWrapper(printed, "utf-8", "replace", newline="", write_through=True)
            value = getattr(self, f"_do_{action}")(*args)
            changed = [
                [index, self.encode(arg)]
                for index, arg in enumerate([*args[1], *args[2].values()] if action == "call" else [])
                if isinstance(arg, list | dict | set | bytearray | collections.deque)
            ]
            reply = ["value", self.encode(value), changed, printed.getvalue().decode("utf-8", "replace")]
        except BaseException as error:  # SystemExit too: a program that leaves has failed
            reply = self._failure(error)
        finally:
            sys.stdout = outside
        self._send(reply)

    # --- what may be asked ---

    def _do_call(self, target: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        return target(*args, **kwargs)

    def _do_get(self, target: Any, name: str) -> Any:
        if not self.allows(target, name):
            raise AttributeError(name)
        return getattr(target, name)

    def _do_set(self, target: Any, name: str, value: Any) -> None:
        if not self.allows(target, name):
            raise AttributeError(name)
        setattr(target, name, value)

    def _do_special(self, target: Any, name: str, *args: Any) -> Any:
        if not self.allows(target, name):
            raise TypeError(name)
        return SPECIAL[name](target, *args)

    def _do_isinstance(self, target: Any, thing: Any) -> bool:
        return isinstance(thing, target)

    def _do_wait(self, target: Any) -> Any:
        import asyncio

        return asyncio.run(target)

    # --- values ---

    def encode(self, value: Any) -> Any:
        """A value as JSON holds it: [type, parts ...] for all but numbers, text and None."""
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        for base in (int, float, str):
            if isinstance(value, base):  # of a class of its own: its value counts
                return PLAIN[base](value)
        if kind in COPIED:
            return [kind.__name__, *map(self.encode, COPIED[kind][1](value))]
        if isinstance(value, tuple) and kind.__bases__ == (tuple,) and "_fields" in vars(kind):
            return ["namedtuple", kind.__name__, list(vars(kind)["_fields"]), *map(self.encode, tuple(value))]
        if "numpy" in sys.modules and (found := _array(value)):
            return self.encode(found[0]) if len(found) == 1 else ["array", *found[:2], *map(self.encode, found[2:])]
        if isinstance(value, Remote) and value._peer is self:
            return ["yours", value._index]
        return self._refer(value)

    def _refer(self, value: Any) -> list[Any]:
        if id(value) not in self.known:
            self.known[id(value)] = len(self.own)
            self.own.append(value)
        index = self.known[id(value)]
        if isinstance(value, type) and issubclass(value, Exception):
            return ["class", index, value.__name__, _base(value).__name__]
        return ["coroutine" if isinstance(value, CoroutineType) else "mine", index]

    def decode(self, value: Any) -> Any:
        """What `encode` of the other side stands for."""
        if not isinstance(value, list):
            return value
        kind, *parts = value
        if kind in MADE:
            return MADE[kind](*map(self.decode, parts))
        return {
            "namedtuple": lambda name, fields, *items: collections.namedtuple(name, fields, rename=True)(
                *map(self.decode, items)
            ),
            "array": self._array,
            "yours": lambda index: self.own[index],
            "mine": lambda index: self.theirs.setdefault(index, Remote(self, index)),
            "class": self._class,
            "coroutine": self._wait,
        }[kind](*parts)

    async def _wait(self, index: int) -> Any:
        """A coroutine of the other side, which runs it once it is awaited here."""
        return self.ask("wait", Remote(self, index))

    def _array(self, dtype: str, shape: list[int], *items: Any) -> Any:
        import numpy

        return numpy.array([self.decode(item) for item in items], dtype=dtype).reshape(shape)

    def _class(self, index: int, name: str, base: str) -> type:
        """A class of exceptions, to be caught and raised under its name."""
        if index not in self.theirs:
            self.theirs[index] = type(str(name), (_exception(base),), {})
        return self.theirs[index]

    # --- errors ---

    def _failure(self, error: BaseException) -> list[Any]:
        kind = type(error)
        known = self.encode(kind) if isinstance(error, Exception) and kind is not _base(kind) else None
        try:
            return ["error", _base(kind).__name__, known, str(error)]
        except BaseException:  # an error that cannot be told
            return ["error", "RuntimeError", None, ""]

    def _error(self, name: str, known: Any, message: str) -> Exception:
        kind = self.decode(known) if known else _exception(name)
        return kind(message) if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError(message)

    # --- messages ---

    def _send(self, message: list[Any]) -> None:
        self.sink.write(json.dumps(message).encode() + b"\n")
        self.sink.flush()

    def _receive(self) -> list[Any]:
        line = self.source.readline(MAX_MESSAGE)
        if not line.endswith(b"\n"):
            raise EOFError("the other side is gone")
        return json.loads(line)


for _name, _compare in {name: vars(operator)[name] for name in COMPARED}.items():
    setattr(Peer, f"_do_{_name}", lambda peer, left, right, compare=_compare: bool(compare(left, right)))


def _array(value: Any) -> list[Any]:
    """Of an array of numpy its dtype, shape and items; of a scalar its value alone; else nothing."""
    import numpy

    if isinstance(value, numpy.generic):
        return [value.item()]
    return [str(value.dtype), list(value.shape), *value.ravel().tolist()] if isinstance(value, numpy.ndarray) else []


def _base(kind: type) -> type:
    """The built-in exception that a class of errors comes from."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _exception(name: str) -> type[Exception]:
    found = vars(builtins).get(name)
    return found if isinstance(found, type) and issubclass(found, Exception) else RuntimeError


def overwrite(old: Any, new: Any) -> None:
    """Make `old` what the call has made of its copy, in place."""
    if isinstance(old, list | bytearray):
        if isinstance(old, list) and len(old) == len(new):
            for index, (before, after) in enumerate(zip(old, new, strict=True)):
                if type(before) is type(after) and isinstance(before, list | dict | set):
                    overwrite(before, after)
                else:
                    old[index] = after
        else:
            old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)
    elif isinstance(old, collections.deque):
        old.clear()
        old.extend(new)
