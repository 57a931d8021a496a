"""Checkpoint families: how config.json and tensor names of each map onto the one transformer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffpo.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Family:
    """A checkpoint layout: `shape` reads its config.json, `names` are (pattern, native name) pairs of its tensors."""

    shape: Callable[[Mapping[str, Any]], TransformerConfig]
    names: tuple[tuple[str, str], ...]

    def native(self, name: str) -> str:
        """Our name of a checkpoint's tensor; a name that no pattern matches stays as it is."""
        for pattern, replacement in self.names:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name


def _llada_shape(config: Mapping[str, Any]) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=config["embedding_size"],
        hidden_size=config["d_model"],
        num_layers=config["n_layers"],
        num_heads=config["n_heads"],
        num_kv_heads=config["n_kv_heads"],
        mlp_size=config["mlp_hidden_size"],
        max_length=config["max_sequence_length"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        qkv_bias=config["include_qkv_bias"],
    )


def _dream_shape(config: Mapping[str, Any]) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        mlp_size=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        qkv_bias=True,
        shift=1,
    )


_LLADA_PARTS = {
    "attn_norm": "attn_norm",
    "q_proj": "attn.q_proj",
    "k_proj": "attn.k_proj",
    "v_proj": "attn.v_proj",
    "attn_out": "attn.o_proj",
    "ff_norm": "mlp_norm",
    "ff_proj": "gate_proj",
    "up_proj": "up_proj",
    "ff_out": "down_proj",
}

FAMILIES = {
    "diffpo": Family(lambda config: TransformerConfig(**config["shape"]), ()),
    "llada": Family(
        _llada_shape,
        (
            (r"model\.transformer\.wte\.weight", "embed.weight"),
            (r"model\.transformer\.ln_f\.weight", "norm.weight"),
            (r"model\.transformer\.ff_out\.weight", "head.weight"),
            *(
                (rf"model\.transformer\.blocks\.(\d+)\.{theirs}\.(\w+)", rf"blocks.\1.{ours}.\2")
                for theirs, ours in _LLADA_PARTS.items()
            ),
        ),
    ),
    "Dream": Family(
        _dream_shape,
        (
            (r"model\.embed_tokens\.weight", "embed.weight"),
            (r"model\.norm\.weight", "norm.weight"),
            (r"lm_head\.weight", "head.weight"),
            (r"model\.layers\.(\d+)\.input_layernorm\.(\w+)", r"blocks.\1.attn_norm.\2"),
            (r"model\.layers\.(\d+)\.post_attention_layernorm\.(\w+)", r"blocks.\1.mlp_norm.\2"),
            (r"model\.layers\.(\d+)\.self_attn\.(\w+)\.(\w+)", r"blocks.\1.attn.\2.\3"),
            (r"model\.layers\.(\d+)\.mlp\.(\w+)\.(\w+)", r"blocks.\1.\2.\3"),
        ),
    ),
}
