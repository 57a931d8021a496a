"""What a setting names: a function or class of the user's own file, or a class that ships, with its knobs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from diffpo.config import suggest
from diffpo.config.checks import check, nearest
from diffpo.config.specs import Spec

T = TypeVar("T")

USER = "diffpo.user:"
"""Before the path of a user's file: a name that no import has. Dataclasses look their module up by it."""


def build(spec: Spec, classes: Mapping[str, str], package: str, kind: type[T]) -> T:
    """The value that a spec describes, of a frozen dataclass whose fields are its knobs.

    `classes` name the class in the file of each name in `package`; others are in the user's own file. ValueError names
    a knob that it lacks, or a value that the knob does not take.
    """
    if spec.path:
        made = find_class(f"{spec.path}:{spec.name}", kind, spec.where)
    else:
        made = getattr(importlib.import_module(f"{package}.{spec.name}"), classes[spec.name])
    knobs = _knobs(made, f"{spec}")
    allowed = f"it has {', '.join(knobs) or 'none'}"
    check(len(spec.values) <= len(knobs), f"{spec}: more values than {spec.name} has knobs; {allowed}")
    given = dict(zip(knobs, spec.values, strict=False))
    for name, value in spec.named.items():
        check(name in knobs, f"{spec}: {spec.name} has no knob {name!r}{suggest(name, knobs)}")
        check(name not in given, f"{spec}: {name} is given twice")
        given[name] = value
    try:
        return made(**{name: _convert(knobs[name], name, value) for name, value in given.items()})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{spec}: {error}") from None


def _knobs(kind: type, where: str) -> dict[str, Any]:
    """The types of its fields by name, as they are once the file has run."""
    try:
        hints = get_type_hints(kind)
    except NameError as error:  # one that is imported for type checkers alone, say
        raise ValueError(f"{where}: a type in {kind.__name__} is not there when the file runs: {error}") from None
    return {knob.name: hints[knob.name] for knob in fields(kind)} if is_dataclass(kind) else {}


def _convert(hint: Any, name: str, text: str) -> Any:
    """`text` as the knob holds it: int, float, bool, one of a Literal, none where it may be None, or else text."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if NoneType in kinds and text == "none":
        return None
    kind = next(kind for kind in kinds if kind is not NoneType)
    if kind is bool:
        check(text in ("true", "false"), f"{name} must be true or false, got {text}")
        return text == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{name} must be {kind.__name__}, got {text}") from None
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        check(text in choices, f"no {name} {text!r}{suggest(text, choices)}")
        return choices[text]
    check(kind is str, f"{name}: a knob is int, float, bool, str or Literal, not {kind}")
    return text


def find_class(spec: str, kind: type[T], where: str, takes: str = "PATH.py:CLASS") -> type[T]:
    """The class that PATH.py:CLASS names. ValueError names what its file lacks, or that it is no `kind`."""
    path, _, name = spec.rpartition(":")
    check(path.endswith(".py"), f"{where} takes {takes}, got {spec!r}")
    made = find_in_file(Path(path), name, "class", f"{where} takes {takes}")
    if not (isinstance(made, type) and kind in made.__mro__):
        raise ValueError(f"{where} {spec!r}: {name} is no diffpo.{kind.__name__}: class {name}({kind.__name__})")
    return made


def find_in_file(path: Path, name: str, kind: str, takes: str) -> Callable[..., Any]:
    """The `kind` (function, class) of that name in the user's file. ValueError names what is missing."""
    found = {key: value for key, value in vars(_load(path, takes)).items() if callable(value) and key[0] != "_"}
    if name not in found:
        raise ValueError(f"{path} has no {kind} {name!r}{nearest(name, found)}; it has {', '.join(found) or 'none'}")
    return found[name]


def _load(path: Path, takes: str) -> ModuleType:
    """The user's file, run as Python runs a script: it may import what lies beside it. The working folder stays."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {takes}")
    spec = importlib.util.spec_from_file_location(f"{USER}{path.resolve()}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        with contextlib.chdir("."), _beside(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end in sys.exit()
        raise ValueError(f"{path} does not import: {error!r}") from error
    return module


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Within, imports find what lies in `folder` before what the working folder, or that of another file of the user's,
    has under the same name. From then on `folder` is the last place that is looked at.
    """
    others = {Path.cwd(), *(Path(name.removeprefix(USER)).parent for name in sys.modules if name.startswith(USER))}
    others -= {folder}
    beside = {entry.stem for entry in folder.iterdir()}
    for name in _changed(folder, beside):
        del sys.modules[name]
    known = {*sys.modules}
    theirs = {name for name in beside & sys.modules.keys() if _home(sys.modules[name]) in others}
    hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in theirs}
    first = next((at for at, place in enumerate(sys.path) if Path(place).resolve() in others), len(sys.path))
    sys.path.insert(first, str(folder))
    try:
        yield
    finally:
        for name in _lying(folder, beside) - known:
            _spec(name).loader_state = _state(name)
        sys.modules.update(hidden)
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def _home(module: ModuleType) -> Path:
    """The folder that a module or a package lies in."""
    place = next(iter(getattr(module, "__path__", ())), None) or getattr(module, "__file__", None)
    return Path(place or "/").parent


def _changed(folder: Path, beside: set[str]) -> set[str]:
    """The modules that an earlier file of the user's imported from `folder`, all of them if one has changed since."""
    found = {name for name in _lying(folder, beside) if _spec(name).loader_state}
    return found if any(_spec(name).loader_state != _state(name) for name in found) else set()


def _lying(folder: Path, beside: set[str]) -> set[str]:
    """The modules of files in `folder`, of which `beside` are the stems, and of packages there."""
    names = {name for name in [*sys.modules] if name.partition(".")[0] in beside}
    located = {name: _spec(name).origin for name in names if _spec(name) and _spec(name).has_location}
    return {name for name, place in located.items() if folder in Path(place).resolve().parents}


def _spec(name: str) -> Any:
    return sys.modules[name].__spec__


def _state(name: str) -> tuple[int, int]:
    """When a module's file was written, and its size; of one that is gone zeros."""
    file = Path(_spec(name).origin)
    return (stat.st_mtime_ns, stat.st_size) if file.is_file() and (stat := file.stat()) else (0, 0)
