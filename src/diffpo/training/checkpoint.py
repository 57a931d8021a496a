"""Checkpoints of a training run: everything that a resumed run needs, written atomically, verified when read.

    RUN/checkpoints/step_000012[_iteration_02]/
        policy/                config, weights, tokenizer, sampler head (a folder that load_policy reads)
        optimizer.safetensors  moments and step counts, by parameter name
        experience.safetensors the batch in hand, where the run was stopped between two updates of a step
        ahead_000013.safetensors rollouts of a later step, where they are made ahead (rollout.lag)
        config.json            the settings that led here
        state.json             step, iteration, skipped updates, forwards, seconds and metrics of the step under way
        manifest.json          sha256 of every file, written last

Random numbers are pure functions of (seed, step, prompt, ...), so there is no generator state to keep; the prompts of
a step are a function of the step, so the step is the data position. Tensors are whole, however many ranks there are and
whatever share each holds, so a run can be resumed with another number of them.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffpo.files.folder import reason, write_folder
from diffpo.files.places import digest_of, list_checkpoints
from diffpo.files.recipe import to_json
from diffpo.models.saving import save_file
from diffpo.processes.world import World
from diffpo.training.clock import REST
from diffpo.training.state import Experience, Rollouts, TrainState, learning_parameters
from diffpo.types import Batch

COUNTS = ("step", "iteration", "skipped", "forwards")
"""Fields of the state that are plain numbers."""


def save_checkpoint(root: Path, state: TrainState, config: Any, keep: int, world: World) -> Path:
    """Write a checkpoint of `state` below `root` and drop all but the newest `keep`; all ranks call it, rank 0 writes.

    `config` are the settings that led to it. It is written under a temporary name, flushed to disk and renamed, so that
    a kill or a full disk at any moment leaves the earlier checkpoints as they were.
    """
    weights, moments = world.whole(state.policy.trainable()), world.whole(_moments(state))

    def write() -> Path:
        name = f"step_{state.step:06d}" + (f"_iteration_{state.iteration:02d}" if state.experience else "")
        folder = root / name
        for left in root.glob(".*.draft"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        write_folder(folder, lambda draft: _write(draft, state, config, weights, moments), consolation(root))
        _sync(root)
        found = list_checkpoints(root)
        for old in found[found.index(folder) + keep :]:  # what is newer is damaged, and takes no good one's place
            _drop(old)
        return folder

    return world.on_main(write)


def _drop(folder: Path) -> None:
    """Remove an old checkpoint; of a link, the link. What cannot be, on a network disk say, costs room and no run."""
    try:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    except OSError as error:
        warnings.warn(f"{folder} could not be removed ({reason(error)}): it takes up room", stacklevel=2)


def consolation(root: Path) -> str:
    """What to say where a folder of the run could not be written: whether one may go on from the checkpoints."""
    return "; earlier checkpoints are untouched: make room and resume" if list_checkpoints(root) else ": make room"


def _write(
    draft: Path, state: TrainState, config: Any, weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]
) -> None:
    state.policy.save_pretrained(draft / "policy", weights)
    (draft / "config.json").write_text(to_json(config) + "\n")
    save_file(dict(moments), draft / "optimizer.safetensors")
    record: dict[str, Any] = {name: getattr(state, name) for name in COUNTS}
    phases = {phase: seconds for phase, seconds in state.seconds.items() if phase != REST}
    record |= {"seconds": sum(state.seconds.values()), "phases": phases, "ahead": {}}
    if state.experience:
        tensors, plain = _flatten_experience(state.experience)
        save_file(tensors, draft / "experience.safetensors")
        record["experience"] = plain
    for step, rollouts in sorted(state.ahead.items()):
        assert rollouts, "what is begun is landed before a run is saved"
        save_file(_tensors_of(rollouts.batch, "batch/"), draft / f"ahead_{step:06d}.safetensors")
        record["ahead"][str(step)] = {"summary": rollouts.summary, "forwards": rollouts.forwards}
    (draft / "state.json").write_text(json.dumps(record))
    files = sorted(path for path in draft.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(draft)): digest_of(path) for path in files}
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=2))
    for path in [*files, draft / "manifest.json", draft / "policy", draft]:
        _sync(path)


def load_checkpoint(folder: Path, state: TrainState, world: World) -> None:
    """Fill `state`, whose policy has been restored and sharded, with the rest of a verified checkpoint."""
    parameters, optimizers = learning_parameters(state.policy), dict(state.optimizers.items())
    with safe_open(folder / "optimizer.safetensors", framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 (safe_open is no mapping)
            group, name, entry = key.split("/")
            parameter, value = parameters[group][name], tensors.get_tensor(key)
            if entry == "step":  # the fused AdamW counts on the device, the other on the CPU
                value = value.to(parameter.device if optimizers[group].defaults["fused"] else "cpu")
            else:
                value = world.share_of(value, parameter)
            optimizers[group].state[parameter][entry] = value
    record = json.loads((folder / "state.json").read_text())
    for name in COUNTS:
        setattr(state, name, record[name])
    phases = record.get("phases", {})  # earlier versions did not say, nor how long in all
    state.seconds = {**phases, REST: record.get("seconds", 0.0) - sum(phases.values())}
    if "experience" in record:
        tensors = load_file(folder / "experience.safetensors", str(world.device))
        state.experience = _restore_experience(tensors, record["experience"])
    for step, plain in record.get("ahead", {}).items():
        tensors = load_file(folder / f"ahead_{int(step):06d}.safetensors")
        state.ahead[int(step)] = Rollouts(_restore_batch(tensors), **plain)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _moments(state: TrainState) -> dict[str, Tensor]:
    """Every entry of the optimisers' state, as {optimiser}/{parameter}/{entry}."""
    parameters = learning_parameters(state.policy)
    return {
        f"{group}/{name}/{entry}": value
        for group, optimizer in state.optimizers.items()
        for name, parameter in parameters[group].items()
        for entry, value in optimizer.state[parameter].items()
    }


def _tensors_of(held: Batch | Experience, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: value.contiguous() for name, value in vars(held).items() if isinstance(value, Tensor)}


def _restore_batch(tensors: Mapping[str, Tensor]) -> Batch:
    return Batch(**{f.name: tensors.get(f"batch/{f.name}") for f in fields(Batch)})  # type: ignore[arg-type]


def _flatten_experience(experience: Experience) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors for safetensors, the rest for JSON."""
    tensors = _tensors_of(experience) | _tensors_of(experience.batch, "batch/")
    return tensors, {"summary": experience.summary, "updates": experience.updates}


def _restore_experience(tensors: dict[str, Tensor], plain: dict[str, Any]) -> Experience:
    own = {name: tensors.get(name) for name in ("live", "keys", "old_logprobs", "ref_logprobs")}
    return Experience(_restore_batch(tensors), **own, **plain)  # type: ignore[arg-type]
