"""Whether a run may go on: what a resumed run may change, and what changed behind its back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from diffpo.files.places import matches
from diffpo.files.recipe import flatten, from_dict, read_json

FREE = (
    *("output", "steps", "num_threads", "save_every", "keep_checkpoints", "eval_every", "eval_data", "eval"),
    *("log_with", "log_every", "log_rollouts", "show_rollouts", "tracker", "load.device", "load.compile"),
    *("optim.micro_batch_tokens", "optim.gradient_checkpointing", "rollout.num_slots"),
    *("rollout.workers", "rollout.gpus_per_worker", "rollout.address", "rollout.worker_timeout"),
)
"""What a resumed run may change: how long it is, what it shows and keeps, memory, speed, machines."""
CODE = (
    *("task.name", "task.reward", "rollout.sampler", "eval.samplers", "objective.surrogate", "objective.loss"),
    *("threshold.network", "bernoulli.network"),
)
"""Settings that may name code of the user's own, PATH.py:NAME."""
FILES = ("model", "load.adapter", "data", "eval_data", "task.data", "task.test_data", *CODE)
"""Settings that name files. Where what they hold is the same, the name may be another: the files have moved."""
WHOLE = 2**26
"""Bytes up to which a digest reads all of a folder's file; of larger ones, weights, both ends and the size."""


def settings(config: Any) -> dict[str, Any]:
    """What is computed, by dotted name: without what a resumed run may change, with a schedule's length in effect.

    That of blocks which grow is the number of steps.
    """
    found = {
        name: value
        for name, value in flatten(dataclasses.asdict(config)).items()
        if name not in FREE and name.partition(".")[0] not in FREE
    }
    found["schedule_steps"] = None
    if config.optim.lr_schedule != "constant":
        found["schedule_steps"] = config.schedule_steps or config.steps
    if len(found.get("blocks", ())) > 1:
        found["steps"] = config.steps
    return found


def on_every_rank(config: Any) -> dict[str, Any]:
    """What all processes of a run must have alike: its settings, but for the place, and the digests of its files."""
    own = ("output", "num_threads", "load.device")  # rank 0 writes; the others are of each process alone
    found = {name: value for name, value in flatten(dataclasses.asdict(config)).items() if name not in own}
    return found | {f"{name} (file)": files for name, files in digests(config).items()}


def recorded(path: Path) -> dict[str, Any]:
    """What run.json says of a run: its id, and the digests of its inputs; {} where there is none.

    ValueError if it is not what a run writes.
    """
    record = read_json(path) if path.is_file() else {}
    inputs = record.get("inputs", {})
    by_setting = isinstance(inputs, dict) and all(isinstance(files, dict) for files in inputs.values())
    if not by_setting or not isinstance(record.get("id", ""), str):
        raise ValueError(f"{path}: no id and digests of inputs: remove it, and the run goes on with what it finds now")
    return record


def check_same(path: Path, config: Any, same: Iterable[str] = ()) -> None:
    """ValueError names the settings of the run, at `path`, that differ from `config`; `same` are not compared."""
    try:
        before = settings(from_dict(type(config), json.loads(path.read_text())))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; start in another output") from None
    now = settings(config)
    changed = [name for name in now if now[name] != before[name] and name not in same]
    if changed == ["schedule_steps"] and config.schedule_steps is None:
        raise ValueError(
            f"steps = {config.steps}: the run's cosine schedule is {before['schedule_steps']} steps long: give "
            f"schedule_steps = {before['schedule_steps']} too, and the further steps have its last rate"
        )
    if changed:
        raise ValueError(
            f"{path} differs from this config in {', '.join(changed)}: a resumed run keeps its settings (its folder "
            "has them), or start in another output"
        )


def digests(config: Any) -> dict[str, dict[str, str]]:
    """Path and digest of each file or folder that the settings name: setting to path to digest."""
    values = flatten(dataclasses.asdict(config))
    return {name: found for name in FILES if name in values and (found := dict(_digests(name, values[name])))}


def _digests(name: str, value: Any) -> Iterator[tuple[str, str]]:
    for entry in value if isinstance(value, list | tuple) else [value]:
        stem, own, _ = str(entry).partition(".py:")
        text = f"{stem}.py" if own else stem
        path = Path(text)
        policy = path / "policy"
        if entry and path.exists() and (own or name not in CODE):
            yield text, digest(policy if policy.is_dir() else path)
        elif name not in CODE and (files := matches(text)) is not None:
            each = [digest(Path(file)) for file in files]
            yield text, hashlib.sha256("\n".join(each).encode()).hexdigest()


def digest(path: Path) -> str:
    """A fingerprint of a file's content, or of all files of a folder but its own drafts."""
    found = hashlib.sha256()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        size = file.stat().st_size
        if path.is_dir():
            found.update(f"{file.relative_to(path)}\n".encode())
        with file.open("rb") as content:
            if path.is_dir() and size > WHOLE:
                found.update(f"{size}\n".encode() + content.read(WHOLE // 2))
                content.seek(size - WHOLE // 2)
            for block in iter(partial(content.read, WHOLE), b""):
                found.update(block)
    return found.hexdigest()


def moved(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Settings whose files are elsewhere and hold what they held."""
    return [name for name in now if name in before and [*before[name].values()] == [*now[name].values()]]


def changed(before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> list[str]:
    """A line for each file that is not what it was when the run last started."""
    return [
        f"{path} ({name}) has changed since this run began: the steps from here on go by what it holds now"
        for name, files in now.items()
        for path, found in files.items()
        if before.get(name, {}).get(path, found) != found
    ]
