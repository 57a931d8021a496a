"""Tiny Nemotron-Labs-Diffusion checkpoints, made of transformers' Ministral, whose layers it has by its own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models.small_runs import drawn_wide
from safetensors.torch import save_file
from small_tokenizers import TOKENIZERS
from transformers import Ministral3Config, Ministral3ForCausalLM, PreTrainedModel

ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
    "llama_4_scaling_beta": 0.1,
}
SHAPE: dict[str, Any] = {
    "vocab_size": 192,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_parameters": ROPE,
}
PUBLISHED = SHAPE | {
    "model_type": "nemotron_labs_diffusion",
    "architectures": ["NemotronLabsDiffusionModel"],
    "block_size": 4,
    "dlm_paradigm": "bidirectional",
    "sliding_window": None,
    "attention_bias": False,
    "mlp_bias": False,
    "mask_token_id": 168,
    "eos_token_id": 161,
}


def twin() -> PreTrainedModel:
    """Ministral with weights drawn wide, so that every part counts."""
    return drawn_wide(
        Ministral3ForCausalLM(Ministral3Config(**SHAPE, sliding_window=None, attn_implementation="eager"))
    )


def save_checkpoint(folder: Path, **changes: Any) -> Path:
    """The twin's weights under the published names."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED | changes))
    names = {"model.": "encoder.", "lm_head.": "diffusion_head."}
    tensors = {}
    for name, tensor in twin().state_dict().items():
        theirs, ours = next(pair for pair in names.items() if name.startswith(pair[0]))
        tensors[ours + name.removeprefix(theirs)] = tensor.clone()
    save_file(tensors, folder / "model.safetensors")
    TOKENIZERS["llada"](folder)
    return folder
