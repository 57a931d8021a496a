"""Denoiser weights from a checkpoint folder: config.json and safetensors, never pickle, never remote code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffpo.config import suggest
from diffpo.models.families import FAMILIES
from diffpo.models.transformer import Transformer


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint folder; ValueError if there is none or its family is unknown."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no checkpoint here (no config.json); `diffpo pretrain` makes one")
    try:
        config = json.loads(path.read_text())
        family = config.get("model_type")
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path}: not a config: {error}") from None
    if family not in FAMILIES:
        raise ValueError(f"{path}: model_type {family!r} is not a family diffpo loads{suggest(str(family), FAMILIES)}")
    return config


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; ValueError names a file that is cut short or is none."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file: {error}") from None


def load_denoiser(folder: str | Path) -> Transformer:
    """The transformer of a checkpoint folder of any family, on the CPU, in the checkpoint's dtype."""
    folder = Path(folder)
    config = read_config(folder)
    family = FAMILIES[config["model_type"]]
    with torch.device("meta"):
        model = Transformer(family.shape(config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state, problems = {}, []
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in read_tensors(file).items():
            native = family.native(name)
            if native not in expected:
                problems.append(f"unexpected {name}")
            elif tuple(tensor.shape) != expected[native]:
                problems.append(f"{name} has shape {tuple(tensor.shape)}, expected {expected[native]}")
            state[native] = tensor
    problems += [f"missing {name}" for name in expected if name not in state]
    if problems:
        raise ValueError(f"{folder}: the weights do not fit config.json: {'; '.join(problems)}")
    model.load_state_dict(state, assign=True)
    model.initialize_buffers()
    return model
