"""Tiny LLaDA-MoE, SDAR and LLaDA2 checkpoints, made of transformers' nearest relatives, whose logits are to come out.

By the modelling code of each, LLaDA-MoE and SDAR-30B-A3B are Qwen3-MoE without its causal mask, LLaDA2 is GLM-4-MoE
with blocks for a mask, queries, keys and values from one linear, and other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

SHARED: dict[str, Any] = {
    "vocab_size": 192,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "hidden_act": "silu",
}
IDS = {"mask_token_id": 168, "pad_token_id": 161, "eos_token_id": 161}
CONFIGS: dict[str, dict[str, Any]] = {
    "lladamoe": {
        "model_type": "llada",  # as published
        "architectures": ["LLaDAMoEModelLM"],
        "dense_intermediate_size": 48,
        "expert_intermediate_size": 24,
        "shared_expert_intermediate_size": None,
        "moe_layer_freq": [1, 1, 1],
        "moe_router_score_function": "softmax",
        "moe_router_enable_expert_bias": False,
        "qk_layernorm": True,
    },
    "sdar_moe": {
        "model_type": "sdar_moe",
        "architectures": ["SDARMoeForCausalLM"],
        "head_dim": 8,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "llada2_moe": {
        "model_type": "llada2_moe",
        "architectures": ["LLaDA2MoeModelLM"],
        "head_dim": 16,
        "intermediate_size": 48,
        "moe_intermediate_size": 24,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "partial_rotary_factor": 0.5,
        "use_qk_norm": True,
    },
}


def relative(kind: str) -> PreTrainedModel:
    """transformers' model with weights drawn wide, so that routers choose and every part counts."""
    own, model = CONFIGS[kind], None
    torch.manual_seed(3)
    if kind != "llada2_moe":
        settings = SHARED | {"moe_intermediate_size": 24, "norm_topk_prob": kind == "sdar_moe", "head_dim": 8}
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings, attn_implementation="eager"))
    else:
        settings = {key: value for key, value in (SHARED | own).items() if key not in ("model_type", "num_experts")}
        settings |= {"n_routed_experts": 8, "n_shared_experts": 1, "attention_bias": False}
        model = Glm4MoeForCausalLM(Glm4MoeConfig(**settings, attn_implementation="eager"))
    with torch.no_grad():
        for parameter in (*model.parameters(), *(b for name, b in model.named_buffers() if "bias" in name)):
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + (parameter.ndim == 1))
    return model.eval()


def save_checkpoint(kind: str, folder: Path, model: PreTrainedModel, changes: Mapping[str, Any] | None = None) -> Path:
    """The model's weights under the published names, with their config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = SHARED | IDS | CONFIGS[kind] | (changes or {})
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: part.contiguous() for name, part in _renamed(kind, model)}, folder / "model.safetensors")
    return folder


def _renamed(kind: str, model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    tensors, named = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}, []
    for name, tensor in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = tensor.chunk(2, dim=1)
            for projection, stack in (("gate_proj", gate), ("up_proj", up)):
                path = name.replace("gate_up_proj", "{}." + projection + ".weight")
                named += [(path.format(number), one.clone()) for number, one in enumerate(stack)]
        elif name.endswith("experts.down_proj"):
            path = name.replace("down_proj", "{}.down_proj.weight")
            named += [(path.format(number), one.clone()) for number, one in enumerate(tensor)]
        elif kind == "llada2_moe" and (match := re.fullmatch(r"(.*)self_attn\.([qkv])_proj\.weight", name)):
            if match[2] == "q":
                three = [tensors[f"{match[1]}self_attn.{part}_proj.weight"] for part in "qkv"]
                named.append((f"{match[1]}attention.query_key_value.weight", torch.cat(three)))
        else:
            named.append((name, tensor))
    if kind != "llada2_moe":
        return named
    names = {
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "embed_tokens": "word_embeddings",
        "e_score_correction_bias": "expert_bias",
    }
    for theirs, ours in names.items():
        named = [(name.replace(theirs, ours), tensor) for name, tensor in named]
    return named
