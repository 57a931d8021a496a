"""What a checkpoint is, from its config.json and the headers of its files: no weight is read."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffpo.files.places import find_policy
from diffpo.files.recipe import read_json
from diffpo.files.shipped import adapter_config
from diffpo.models.experts import Experts
from diffpo.models.families import kind_of
from diffpo.models.lora import linear_names, short_names
from diffpo.models.published import PUBLISHED
from diffpo.models.source import find_source
from diffpo.models.tokenizer import load_tokenizer
from diffpo.models.weights import locate, tensor_shapes


def inspect(name: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Family, shape, parameters, special ids, dtype, files, LoRA targets and memory (bytes) of a model.

    A hub id is described without its weights: only config and tokenizer files are fetched. An adapter's folder is
    described with its base.
    """
    folder = find_policy(locate(name, revision, weights=False))[0]
    if (adapter := adapter_config(folder)) and not read_json(adapter).get("base_model_name_or_path"):
        return _describe_adapter(folder) | {"base": None}
    source = find_source(name, revision, weights=False).in_blocks()
    checkpoint, record = source.checkpoint, source.record
    model = checkpoint.empty_denoiser()
    here = checkpoint.is_local and any(checkpoint.folder.glob("*.safetensors"))
    files = checkpoint.files if here else sorted(checkpoint.folder.glob("model*.safetensors"))  # the hub keeps some
    family, vocab_size = checkpoint.family, model.config.vocab_size
    tokenizer = load_tokenizer(checkpoint.folder, checkpoint.config, vocab_size, family.own_ids)
    linears = linear_names(model, family)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    per_rank = sum(sum(model.get_submodule(native).weight.shape) for native in linears.values())  # type: ignore[arg-type]
    in_blocks = sum(model.get_submodule(native).weight.numel() for native in linears.values())  # type: ignore[operator]
    mixtures = [module for module in model.modules() if isinstance(module, Experts)]
    idle = sum(stack[mixture.router.config.chosen :].numel() for mixture in mixtures for stack in mixture.stacks)
    memory = {"float32": 4 * num_parameters, "bfloat16": 2 * num_parameters}
    if not mixtures:
        memory["four_bit"] = 2 * (num_parameters - in_blocks) + in_blocks // 2 + in_blocks // 62
    return {
        "model": checkpoint.name,
        "folder": str(checkpoint.folder),
        "family": kind_of(checkpoint.config),
        "converted_from": (checkpoint.config.get("converted_from") or {}).get("name"),
        "known": checkpoint.name in PUBLISHED,
        "parameters": num_parameters,
        "parameters_per_token": num_parameters - idle,
        "shape": vars(model.config),
        "dtypes": dict(Counter(dtype for *_, dtype in tensor_shapes(files))),
        "tokenizer": type(tokenizer).__name__,
        "chat_template": tokenizer.chats,
        "mask_id": tokenizer.mask_id,
        "eos_id": tokenizer.eos_id,
        "vocab_size": tokenizer.vocab_size,
        "files": {file.name: file.stat().st_size for file in files},
        "lora_targets": short_names(linears),
        "lora_parameters_per_rank": per_rank,
        "threshold": asdict(record.threshold) if record and record.threshold else None,
        "bernoulli": asdict(record.bernoulli) if record and record.bernoulli else None,
        "task": record.task.name if record and record.task else None,
        "memory": memory,
    } | (_describe_adapter(source.adapter) if source.adapter else {})


def _describe_adapter(folder: Path) -> dict[str, Any]:
    settings = read_json(folder / "adapter_config.json")
    found = tensor_shapes(list(folder.glob("adapter_model.safetensors")))
    return {
        "adapter": str(folder),
        "adapter_rank": settings.get("r"),
        "adapter_alpha": settings.get("lora_alpha"),
        "adapter_rank_pattern": settings.get("rank_pattern") or None,
        "adapter_alpha_pattern": settings.get("alpha_pattern") or None,
        "adapter_rslora": bool(settings.get("use_rslora")),
        "adapter_targets": settings.get("target_modules"),
        "adapter_parameters": sum(math.prod(shape) for *_, shape, _ in found) or None,  # the hub may have kept the file
    }
