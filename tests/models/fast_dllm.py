"""Tiny Fast-dLLM v2 checkpoints, made of transformers' Qwen2, whose layers it has by its own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.small_runs import drawn_wide
from safetensors.torch import save_file
from small_tokenizers import TOKENIZERS
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 192,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}
PUBLISHED = SHAPE | {"model_type": "Fast_dLLM_Qwen", "bd_size": 4, "mask_token_id": 168, "eos_token_id": 160}


def twin() -> PreTrainedModel:
    """Qwen2 with weights drawn wide, so that every part counts."""
    return drawn_wide(Qwen2ForCausalLM(Qwen2Config(**SHAPE, attn_implementation="eager")))


def save_checkpoint(folder: Path, **changes: Any) -> Path:
    """The twin's weights under the published names."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED | changes))
    tensors = {name: part.clone() for name, part in twin().state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors")
    TOKENIZERS["a2d-qwen3"](folder)
    return folder
