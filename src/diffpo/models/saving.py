"""Tensors to safetensors files that others may read, and a full disk as the OSError that it is."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

COPIED = ("*.py", "generation_config.json", "LICENSE*")
"""Files of the base model that go along: its modelling code, which is not run here, and how it generates."""


def save_file(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write one file; OSError if the disk does not take it."""
    with _as_other_files(path.parent):
        safetensors.torch.save_file(dict(tensors), path, metadata)


def save_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write model.safetensors, or shards of at most 5 GB with their index; OSError if the disk does not take them."""
    with _as_other_files(folder):
        huggingface_hub.save_torch_state_dict(dict(tensors), folder, max_shard_size="5GB")


def copy_missing(source: Path, folder: Path) -> None:
    """Copy what goes along and is not there."""
    for pattern in COPIED:
        for file in source.glob(pattern):
            if not (folder / file.name).exists():
                shutil.copy(file, folder)


@contextmanager
def _as_other_files(folder: Path) -> Iterator[None]:
    """safetensors writes files for its own user alone, and reports what the system says as an error of its own."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) from error
    for file in folder.glob("*.safetensors"):
        file.chmod(mode)
