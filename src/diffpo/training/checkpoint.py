"""Checkpoints of a training run: everything that a resumed run needs, written atomically, verified when read.

    RUN/checkpoints/step_000012[_iteration_02]/
        policy/                config, weights, tokenizer, threshold head (a folder that load_policy reads)
        optimizer.safetensors  moments and step counts, by parameter name
        experience.safetensors the batch in hand, where the run was stopped between two updates of a step
        state.json             step, iteration, skipped updates, metrics of the step under way
        manifest.json          sha256 of every file, written last

Random numbers are pure functions of (seed, step, prompt, ...), so there is no generator state to keep; the prompts of
a step are a function of the step, so the step is the data position.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffpo.models.policy import Policy, load_policy
from diffpo.training.update import Experience, Optimizers
from diffpo.types import Batch


@dataclass(eq=False)
class TrainState:
    """Where a run stands. `step` counts finished steps, `iteration` finished updates of the step under way."""

    policy: Policy
    optimizers: Optimizers
    step: int = 0
    iteration: int = 0
    experience: Experience | None = None
    skipped: int = 0
    """Updates skipped in a row, up to now."""


def save_checkpoint(root: Path, state: TrainState, keep: int) -> Path:
    """Write a checkpoint of `state` below `root` and drop all but the newest `keep`.

    It is written under a temporary name, flushed to disk and renamed, so that a kill or a full disk at any moment
    leaves the earlier checkpoints as they were.
    """
    name = f"step_{state.step:06d}" + (f"_iteration_{state.iteration:02d}" if state.experience else "")
    folder, draft = root / name, root / f".{name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _write(draft, state)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise OSError(f"{folder}: could not be written ({error}); earlier checkpoints are untouched") from error
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(draft, folder)
    _sync(root)
    for old in _candidates(root)[keep:]:
        shutil.rmtree(old)
    return folder


def _write(draft: Path, state: TrainState) -> None:
    state.policy.save_pretrained(draft / "policy")
    modules = {"denoiser": state.policy.denoiser, "threshold": state.policy.threshold}
    moments: dict[str, Tensor] = {}
    for name, optimizer in state.optimizers.items():
        moments |= _optimizer_tensors(name, optimizer, modules[name])
    save_file(moments, draft / "optimizer.safetensors")
    record: dict[str, Any] = {"step": state.step, "iteration": state.iteration, "skipped": state.skipped}
    if state.experience:
        tensors, plain = _flatten_experience(state.experience)
        save_file(tensors, draft / "experience.safetensors")
        record["experience"] = plain
    (draft / "state.json").write_text(json.dumps(record))
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(draft)): _digest(path) for path in files}
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=2))
    for path in [*files, draft / "manifest.json", draft / "policy", draft]:
        _sync(path)


def load_checkpoint(folder: Path, optimizers_of: Any) -> TrainState:
    """Read a verified checkpoint; `optimizers_of(policy)` makes the optimisers whose moments are then filled in."""
    policy = load_policy(folder / "policy")
    optimizers = optimizers_of(policy)
    moments = load_file(folder / "optimizer.safetensors")
    modules = {"denoiser": policy.denoiser, "threshold": policy.threshold}
    for name, optimizer in optimizers.items():
        _restore_optimizer(name, optimizer, modules[name], moments)
    record = json.loads((folder / "state.json").read_text())
    experience = None
    if "experience" in record:
        experience = _restore_experience(load_file(folder / "experience.safetensors"), record["experience"])
    return TrainState(policy, optimizers, record["step"], record["iteration"], experience, record["skipped"])


def latest_checkpoint(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are all as they were written, and a line for each newer one passed over."""
    lines = []
    for folder in _candidates(root):
        damage = find_damage(folder)
        if damage is None:
            return folder, lines
        lines.append(f"{folder}: {damage}; passing it over for the one before")
    return None, lines


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return "manifest.json is missing or unreadable"
    for name, digest in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} is damaged (its checksum differs)"
    return None


def _candidates(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(root.glob("step_*"), reverse=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer, module: nn.Module | None) -> dict[str, Tensor]:
    assert module is not None
    return {
        f"{prefix}/{name}/{entry}": value
        for name, parameter in module.named_parameters()
        for entry, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(
    prefix: str, optimizer: torch.optim.Optimizer, module: nn.Module | None, tensors: dict[str, Tensor]
) -> None:
    assert module is not None
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        group, name, entry = key.split("/")
        if group == prefix:
            optimizer.state[parameters[name]][entry] = value


def _flatten_experience(experience: Experience) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors for safetensors, the rest for JSON."""
    named = {f"batch/{f.name}": getattr(experience.batch, f.name) for f in fields(Batch)}
    named |= {f.name: getattr(experience, f.name) for f in fields(Experience)}
    tensors = {name: value.contiguous() for name, value in named.items() if isinstance(value, Tensor)}
    plain = {
        "prompt_ids": experience.batch.prompt_ids,
        "summary": experience.summary,
        "updates": experience.updates,
    }
    return tensors, plain


def _restore_experience(tensors: dict[str, Tensor], plain: dict[str, Any]) -> Experience:
    columns = {f.name: tensors.get(f"batch/{f.name}") for f in fields(Batch) if f.name != "prompt_ids"}
    batch = Batch(prompt_ids=tuple(tuple(ids) for ids in plain["prompt_ids"]), **columns)  # type: ignore[arg-type]
    names = [f.name for f in fields(Experience) if f.name not in ("batch", "summary", "updates")]
    own = {name: tensors.get(name) for name in names}
    return Experience(batch, summary=plain["summary"], updates=plain["updates"], **own)  # type: ignore[arg-type]
