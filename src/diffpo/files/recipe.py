"""Configs and files: TOML recipes in, JSON out, and which recipe wrote a folder. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpo.config import SftConfig, TaskConfig, TrainConfig, suggest
from diffpo.config.checks import convert, hints_of, section_of, suggest_key
from diffpo.config.idle import over
from diffpo.files.places import find_run, list_checkpoints, shipped_files

C = typing.TypeVar("C")


def load_config(cls: type[C], path: str | Path) -> C:
    """Read a sparse TOML file over the defaults of `cls`, or a run's settings: its folder, or the config.json there.

    A recipe that ships with diffpo is read by its name. ValueError names the file, the key and the mend.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else find_recipe(str(path))
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    values = _read(path)
    if "model_type" in values:
        raise ValueError(f"{path} is a model's, not a run's: name its run, or start from it with model = {path.parent}")
    try:
        own = KINDS.get(cls)
        if own and (kind := kind_of(values)) not in (None, own):
            mend = f": start from that run with model = {path.parent}" if path.suffix == ".json" else ""
            raise ValueError(f"this is for diffpo {kind}, not for diffpo {own}{mend}")
        return from_dict(cls, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """The values in a TOML file, or in a run's config.json; ValueError names the file."""
    if path.suffix == ".json":
        return read_json(path)
    try:
        return read_toml(path)
    except ValueError as error:
        mend = "" if path.suffix == ".toml" else "; a recipe is a .toml file, and rows are named by data or task.data"
        raise ValueError(f"{path}: {error}{mend}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds, as an editor may have saved it; ValueError says why it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8, save it as UTF-8: {error}") from None


KINDS: dict[type, str] = {TrainConfig: "train", SftConfig: "sft"}
"""Commands by what their recipes fill."""


def kind_of(values: Mapping[str, Any]) -> str | None:
    """The one command whose settings `values` are; None if they fit both or neither."""
    fitting = [kind for cls, kind in KINDS.items() if values.keys() <= hints_of(cls).keys()]
    return fitting[0] if len(fitting) == 1 else None


def kind_at(name: str) -> str | None:
    """The command that a recipe is for, or the run in a folder is of; None if it fits both. ValueError names a file
    that cannot be read."""
    folder = Path(name).parent if Path(name).name == "config.json" else Path(name)
    config = folder / "config.json"
    return kind_of(_read(config if config.is_file() else find_recipe(name)))


def from_dict(cls: type[C], values: dict[str, Any], where: str = "", base: C | None = None) -> C:
    """Build a config from nested plain values over its defaults, or over `base`.

    Values of `base` that do nothing beside the new ones give way. An unknown key or a value of the wrong type is a
    ValueError, and so is a value that does nothing.
    """
    said = flatten(values)
    return over(lambda base: _build(cls, values, where, base, cls), base, said)  # pyright: ignore[reportReturnType]


def _build(cls: type[C], values: dict[str, Any], where: str, base: C | None, whole: type) -> C:
    hints = hints_of(cls)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            raise ValueError(f"unknown key {where + key!r}{suggest_key(key, cls, whole)}")
        section = section_of(hints[key])
        if section and isinstance(value, dict):
            base = base or cls()  # a section's defaults may be its owner's rather than its class's
            arguments[key] = _build(section, value, f"{where}{key}.", getattr(base, key), whole)
        else:
            arguments[key] = convert(hints[key], value, where + key)
    return dataclasses.replace(typing.cast(Any, base), **arguments) if base else cls(**arguments)


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; ValueError names the file."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: not an object")
    return value


def to_json(config: Any) -> str:
    """The resolved config as JSON, which `from_dict(cls, json.loads(text))` reads back."""
    return json.dumps(dataclasses.asdict(config), indent=2)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def find_recipe(name: str) -> Path:
    """The recipe at path `name`, or the one of that name that ships with diffpo; ValueError names the nearest."""
    if Path(name).is_file():
        return Path(name)
    stem, shipped = name.removeprefix("recipes/").removesuffix(".toml"), shipped_files("recipes/*.toml")
    if stem in shipped:
        return shipped[stem]
    if saved := list_checkpoints(Path(name, "checkpoints")):
        raise ValueError(f"{name}: this run has lost its config.json: copy {saved[0] / 'config.json'} into it")
    if Path(name).is_dir():
        raise ValueError(
            f"{name}: no config.json: no run has made a step here; give the command that it was begun with"
        )
    raise ValueError(f"{name}: no such recipe{suggest(Path(name).stem, sorted(shipped))}; diffpo recipes lists them")


def find_training(folder: Path) -> tuple[TrainConfig | None, TaskConfig | None]:
    """The training run that `folder` is part of, if any, and the task of the model in it."""
    run = find_run(folder)
    if run is None:
        return None, None
    values = read_json(run / "config.json")
    try:
        if "objective" in values:  # a policy's config.json has none
            return (config := from_dict(TrainConfig, values)), config.task
        if "label_noise" in values:
            sft = from_dict(SftConfig, values)
            return None, None if sft.data else sft.task
    except ValueError as error:
        raise ValueError(f"{run / 'config.json'}: {error}") from None
    return None, None
