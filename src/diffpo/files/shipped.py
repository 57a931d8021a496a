"""The recipes that ship with diffpo: what each is for and needs, and which gives a model its defaults."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from diffpo.config import LoraConfig, SftConfig, TrainConfig
from diffpo.files.places import is_path, shipped_files
from diffpo.files.recipe import KINDS, kind_of, load_config, read_json
from diffpo.files.record import Record

C = TypeVar("C", SftConfig, TrainConfig)

PUBLISHED: dict[type, str] = {TrainConfig: "llada8b_own", SftConfig: "llada8b_sft"}
"""Recipes whose settings are the defaults for published models; those of the configs are for tiny models."""


@dataclass(frozen=True)
class Recipe:
    """One recipe, or a config file of accelerate's."""

    name: str
    path: Path
    command: str
    """What it is for: train, sft, or accelerate launch."""
    title: str
    """Its first line."""
    model: str = ""
    task: str = ""
    needs: str = ""
    """What must be there before it runs."""


def list_recipes() -> list[Recipe]:
    """All that ship, by name; accelerate's files last."""
    found = [_read(path) for _, path in sorted(shipped_files("recipes/*.toml").items())]
    launches = sorted(shipped_files("recipes/accelerate/*.yaml").items())
    return found + [Recipe(name, path, "accelerate launch", _title(path)) for name, path in launches]


def _read(path: Path) -> Recipe:
    kind = kind_of(tomllib.loads(path.read_text()))
    cls = next(cls for cls, name in KINDS.items() if name == kind)
    config: Any = load_config(cls, path)
    own_rows = cls is SftConfig and bool(config.model) and not config.task.name
    task = "your own" if own_rows or config.task.name == "own" else config.task.name
    gpu = re.search(r"one GPU of \d+ GB", path.read_text())
    convert = re.search(r"^# (diffpo convert \S+)", path.read_text(), re.MULTILINE)
    maker = convert[1] if convert else maker_of(config.model)
    needs = gpu[0] if gpu and is_published(config.model) else maker
    if task == "your own":
        needs += ", data" if own_rows else ", task.data, task.reward"
    return Recipe(path.stem, path, kind or "", _title(path), config.model or "from scratch", task, needs)


def _title(path: Path) -> str:
    """The comment at the head of a file, up to its first full stop."""
    lines = (line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return f"{' '.join(lines)} ".partition(". ")[0].rstrip(".")


def maker_of(folder: str | Path) -> str:
    """The command that makes the model of a folder, where that is the output of a recipe that ships; else empty."""
    for name, path in shipped_files("recipes/*.toml").items():
        values = tomllib.loads(path.read_text())
        if values.get("output") == str(folder):
            return f"diffpo {kind_of(values)} {name}"
    return ""


def defaults_for(cls: type[C], model: str, adapter: str = "") -> C:
    """The settings that a run of `model` has where nobody says otherwise; `adapter` is one that it goes on with.

    A tiny model has the config's own, a published one those of a recipe: a learning rate, a batch and adapters that
    suit billions of weights, or no new adapters on top of others.
    """
    if not is_published(model):
        return cls()
    config = load_config(cls, shipped_files("recipes/*.toml")[PUBLISHED[cls]])
    if adapter or adapter_config(Path(model)):
        config = replace(config, lora=LoraConfig())
    return replace(config, model=model, output=cls().output)


def is_published(model: str) -> bool:
    """Whether a model is of a published family, or stands on one: by what its folder says; a hub id is."""
    folder = Path(model).expanduser()
    if not folder.exists():
        return not is_path(model)
    for place in (folder / "policy", folder):
        if (place / "config.json").is_file():
            return read_json(place / "config.json").get("model_type", "diffpo") != "diffpo"
        if (place / "adapter_config.json").is_file():
            return is_published(read_json(place / "adapter_config.json").get("base_model_name_or_path") or "")
        if (record := Record.read(place)) and record.base:  # a sampler head alone
            return is_published(record.base.name)
    return False


def check_rate(config: SftConfig | TrainConfig) -> None:
    """ValueError if a published model is about to learn at the rate of a tiny one, which nobody has chosen for it."""
    rate, tiny = config.optim.learning_rate, type(config)().optim.learning_rate
    adapters = config.lora.rank or config.load.adapter or adapter_config(Path(config.model))
    unchosen = rate == tiny and not (adapters and isinstance(config, TrainConfig))
    if unchosen and is_published(config.model):
        raise ValueError(
            f"optim.learning_rate = {rate:g} is the default for a tiny model, and {config.model} is none: set it, or "
            f"start from a recipe such as {PUBLISHED[type(config)]} (diffpo recipes)"
        )


def adapter_config(folder: Path) -> Path | None:
    """adapter_config.json of a folder of adapters, or of a run that trained some."""
    for place in (folder / "policy", folder):
        if (place / "adapter_config.json").is_file() and not (place / "config.json").is_file():
            return place / "adapter_config.json"
    return None
