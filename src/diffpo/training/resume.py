"""Whether a run may go on: what a resumed run may change, and what changed behind its back."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
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
Digests = Mapping[str, Mapping[str, str]]
"""Setting to path to digest."""
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


def check_same(path: Path, config: Any, recorded: Digests, found: Digests) -> None:
    """ValueError names the settings of the run, at `path`, that differ from `config`.

    Files are what they hold, by the digests that were `recorded` and that are `found` now: they may have moved.
    """
    try:
        before = settings(from_dict(type(config), json.loads(path.read_text())))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; start in another output") from None
    now = settings(config)
    changed = [
        name
        for name in now
        if now[name] != before[name]
        and _by_content(now[name], found.get(name, {})) != _by_content(before[name], recorded.get(name, {}))
    ]
    if changed == ["schedule_steps"] and config.schedule_steps is None:
        raise ValueError(
            f"steps = {config.steps}: the run's cosine schedule is {before['schedule_steps']} steps long, and behind "
            "its end the denoiser's rate is 0: start a run from its policy, or give schedule_steps = "
            f"{before['schedule_steps']} too"
        )
    if changed:
        raise ValueError(
            f"{path} differs from this config in {', '.join(changed)}: a resumed run keeps its settings (its folder "
            "has them), or start in another output"
        )


def digests(config: Any) -> dict[str, dict[str, str]]:
    """Path and digest of each file or folder that the settings name."""
    values = flatten(dataclasses.asdict(config))
    return {name: found for name in FILES if name in values and (found := dict(_digests(name, values[name])))}


def _digests(name: str, value: Any) -> Iterator[tuple[str, str]]:
    for entry in value if isinstance(value, list | tuple) else [value]:
        stem, own, _ = str(entry).partition(".py:")
        text = f"{stem}.py" if own else stem
        path = Path(text)
        policy = path / "policy"
        if entry and path.exists() and (own or name not in CODE):
            yield text, _digest_of_code(path) if own else digest(policy if policy.is_dir() else path)
        elif name not in CODE and (files := matches(text)) is not None:
            each = [digest(Path(file)) for file in files]
            yield text, hashlib.sha256("\n".join(each).encode()).hexdigest()


def _digest_of_code(path: Path) -> str:
    """A fingerprint of a file of the user's own and of what it imports, directly or not, from beside it."""
    found, left = set[Path](), [path.resolve()]  # a link's imports are where it leads
    root = left[0].parent
    while left:
        file = left.pop()
        if file not in found and file.is_file():
            found.add(file)
            left += [place for name in _imports(file) for place in _places(root, file.parent, name)]
    each = [digest(file) for file in sorted(found)]
    return each[0] if len(each) == 1 else hashlib.sha256("\n".join(each).encode()).hexdigest()


def _imports(file: Path) -> Iterator[str]:
    """Dotted names that a file imports, or may: of `from a import b` both a.b and a. None of what does not parse."""
    try:
        nodes = ast.walk(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):  # said where it is loaded
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ("." * node.level + ".".join(filter(None, (node.module, a.name))) for a in node.names)


def _places(root: Path, folder: Path, name: str) -> Iterator[Path]:
    """Files that importing `name` would run, if they are there, packages' own among them; from `folder` where it is
    relative."""
    level = len(name) - len(name.lstrip("."))
    place = [root, folder, *folder.parents][min(level, 1 + len(folder.parents))]
    for part in name.lstrip(".").split("."):
        place /= part
        yield from (place.with_suffix(".py"), place / "__init__.py")


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


def _by_content(value: Any, files: Mapping[str, str]) -> Any:
    """A setting's value where digests stand for the files that it names; what is asked of them stays: their functions,
    weights, knobs.
    """
    if isinstance(value, list | tuple):
        return [_by_content(entry, files) for entry in value]
    text = str(value)
    name = next((name for name in files if text == name or text.startswith(f"{name}:")), "")
    return f"{files[name]}{text.removeprefix(name)}" if name else value


def changed(before: Digests, now: Digests) -> list[str]:
    """A line for each file that is not what it was when the run last started."""
    return [
        f"{path} ({name}) has changed{', or what it imports,' if name in CODE else ''} since this run began: the steps "
        "from here on go by what it holds now"
        for name, files in now.items()
        for path, found in files.items()
        if before.get(name, {}).get(path, found) != found
    ]
