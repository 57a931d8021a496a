"""LLaDA written out, slow and plain, from its description and over its own tensor names; and checkpoints to compare.

One row at a time, one head at a time, one position at a time where positions meet.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from helpers import GOLDEN, pack_in_blocks
from safetensors.torch import load_file, save_file
from small_tokenizers import TOKENIZERS
from torch import Tensor

from diffpo.models.attention import pack
from diffpo.models.transformer import Transformer

FAMILIES = ("llada", "dream", "a2d-qwen3")
"""Of the golden checkpoints, those with an adapter."""
GOLDENS = (*FAMILIES, "a2d-qwen2", "a2d-llama", "bd3lm", "sdar")


def published_logits(config: Mapping[str, Any], tensors: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """Logits [N, V] of one row of ids [N]."""
    x = tensors["model.transformer.wte.weight"][ids]
    for index in range(config["n_layers"]):
        block = {
            name.removeprefix(f"model.transformer.blocks.{index}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"model.transformer.blocks.{index}.")
        }
        x = x + attention(config, block, norm(config, block["attn_norm.weight"], x))
        h = norm(config, block["ff_norm.weight"], x)
        gate = h @ block["ff_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ block["up_proj.weight"].T)) @ block["ff_out.weight"].T
    x = norm(config, tensors["model.transformer.ln_f.weight"], x)
    return x @ tensors["model.transformer.ff_out.weight"].T


def attention(config: Mapping[str, Any], block: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Every position looks at every other, head by head; groups of heads share keys and values."""
    heads = config["n_heads"]
    kv_heads = config.get("n_kv_heads") or heads
    size = config["d_model"] // heads
    outputs = []
    for head in range(heads):
        shared = head // (heads // kv_heads)
        q = rotated(config, project(block, "q_proj", x, head, size))
        k = rotated(config, project(block, "k_proj", x, shared, size))
        v = project(block, "v_proj", x, shared, size)
        outputs.append(torch.softmax(q @ k.T / math.sqrt(size), dim=-1) @ v)
    return torch.cat(outputs, dim=-1) @ block["attn_out.weight"].T


def project(block: Mapping[str, Tensor], name: str, x: Tensor, head: int, size: int) -> Tensor:
    """One head's queries, keys or values, [N, size]."""
    rows = slice(head * size, (head + 1) * size)
    y = x @ block[f"{name}.weight"][rows].T
    return y + block[f"{name}.bias"][rows] if f"{name}.bias" in block else y


def rotated(config: Mapping[str, Any], x: Tensor) -> Tensor:
    """RoPE, half-split: dimension j turns against dimension j + size / 2."""
    half = x.shape[1] // 2
    turned = torch.empty_like(x)
    for position in range(len(x)):
        for j in range(half):
            angle = position * config["rope_theta"] ** (-j / half)
            a, b = x[position, j], x[position, j + half]
            turned[position, j] = a * math.cos(angle) - b * math.sin(angle)
            turned[position, j + half] = b * math.cos(angle) + a * math.sin(angle)
    return turned


def norm(config: Mapping[str, Any], weight: Tensor, x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + config["rms_norm_eps"]) * weight


def llada_config(**changes: Any) -> dict[str, Any]:
    """A small config.json of LLaDA with `changes`; a key that is changed to ... is left out."""
    config = json.loads((GOLDEN / "llada-tiny" / "config.json").read_text())
    config |= {"d_model": 48, "n_layers": 2, "mlp_hidden_size": 40, "embedding_size": 56, "vocab_size": 50}
    config |= {"eos_token_id": 48, "pad_token_id": 48, "mask_token_id": 49} | changes
    return {key: value for key, value in config.items() if value is not ...}


def random_llada(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights of the shapes that config.json describes, under the published names."""
    width, heads = config["d_model"], config["n_heads"]
    kv_width = (config.get("n_kv_heads") or heads) * (width // heads)
    mlp = config.get("mlp_hidden_size") or config["mlp_ratio"] * width
    vocab = config.get("embedding_size") or config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocab, width), "ff_out.weight": (vocab, width)}
    shapes["ln_f.weight"] = (width,)
    for index in range(config["n_layers"]):
        block = {
            "attn_norm.weight": (width,),
            "q_proj.weight": (width, width),
            "k_proj.weight": (kv_width, width),
            "v_proj.weight": (kv_width, width),
            "attn_out.weight": (width, width),
            "ff_norm.weight": (width,),
            "ff_proj.weight": (mlp, width),
            "up_proj.weight": (mlp, width),
            "ff_out.weight": (width, mlp),
        }
        if config["include_qkv_bias"]:
            block |= {"q_proj.bias": (width,), "k_proj.bias": (kv_width,), "v_proj.bias": (kv_width,)}
        shapes |= {f"blocks.{index}.{name}": shape for name, shape in block.items()}
    generator = torch.Generator().manual_seed(seed)
    scale = {1: 0.3, 2: 2 / math.sqrt(width)}
    return {
        f"model.transformer.{name}": torch.randn(shape, generator=generator) * scale[len(shape)]
        + float(name.endswith(("norm.weight", "ln_f.weight")))
        for name, shape in shapes.items()
    }


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], shards: int = 1, index: bool = True
) -> Path:
    """config.json and safetensors as the hub has them: one file, or shards with or without their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def golden_checkpoint(folder: Path, family: str = "llada", tokenizer: bool = False, **changes: Any) -> Path:
    """A copy of a golden checkpoint, config.json with `changes`, with a tokenizer and remote code if asked for."""
    source = GOLDEN / f"{family}-tiny"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(source / name, folder)
    if changes:
        config = json.loads((source / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes, indent=2) + "\n")
    if tokenizer:
        TOKENIZERS[family](folder)
        for name in ("modeling", "configuration"):
            (folder / f"{name}_{family}.py").write_text('raise RuntimeError("remote code ran")\n')
    return folder


def golden_adapter(folder: Path, family: str = "llada", **changes: Any) -> Path:
    """A copy of a golden LoRA adapter, adapter_config.json with `changes`."""
    source = GOLDEN / f"{family}-tiny" / "lora"
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
    shutil.copy(source / "adapter_model.safetensors", folder)
    return folder


def golden(family: str, adapter: bool = False) -> tuple[Tensor, Tensor]:
    """Ids [R, N] and the published code's logits [R, N, V], with the golden adapter or without."""
    folder = GOLDEN / f"{family}-tiny"
    tensors = load_file((folder / "lora" if adapter else folder) / "golden.safetensors")
    return tensors["input_ids"], tensors["logits"]


def logits_of(denoiser: Transformer, ids: Tensor) -> Tensor:
    """Logits [R, N, V] of rows of ids [R, N], nothing banned, in fp32. Dream's are unshifted, as its own code's.

    Blocks, where attention has them, begin with the row.
    """
    lengths, size = torch.full((len(ids),), ids.shape[1]), denoiser.config.block_length
    numbers = (torch.arange(ids.shape[1]) // size).expand(ids.shape) if size else None
    packed = pack(ids, lengths) if numbers is None else pack_in_blocks(ids, lengths, numbers)
    with denoiser.autocast():
        return denoiser.head(denoiser(*packed)).float().view(*ids.shape, -1)
