"""Checkpoint families: how config.json and module names of each map onto the one transformer, and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffpo.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Family:
    """A checkpoint layout: `shape` reads its config.json, `modules` are (its name, ours), * a block's number."""

    shape: Callable[[Mapping[str, Any]], TransformerConfig]
    modules: tuple[tuple[str, str], ...] = ()

    def native(self, name: str) -> str:
        """Our name of a checkpoint's module or tensor; a name that nothing matches stays as it is."""
        return _rename(name, self.modules)

    def original(self, name: str) -> str:
        """The checkpoint's name of our module or tensor; the inverse of `native`."""
        return _rename(name, tuple((ours, theirs) for theirs, ours in self.modules))


def _rename(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """`name` by the first pair whose left side is a prefix of it in whole dotted parts."""
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\*", r"(?P<block>\d+)") + r"(?P<rest>(\..+)?)"
        if match := re.fullmatch(pattern, name):
            parts = match.groupdict()
            return target.replace("*", parts.get("block", "")) + parts["rest"]
    return name


def _check(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """ValueError for a variant of the architecture that the transformer does not have; absent keys are as wanted."""
    others = [f"{key} = {config[key]!r}" for key, value in wanted.items() if config.get(key, value) != value]
    if others:
        raise ValueError(f"config.json asks for {', '.join(others)}, which diffpo's transformer does not have")


def _llada_shape(config: Mapping[str, Any]) -> TransformerConfig:
    wanted = {"rope": True, "alibi": False, "layer_norm_type": "rms", "activation_type": "silu", "block_type": "llama"}
    off = ("weight_tying", "include_bias", "attention_layer_norm", "input_emb_norm", "scale_logits")
    _check(config, wanted | dict.fromkeys(off, False))
    heads = config["n_heads"]
    return TransformerConfig(
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        hidden_size=config["d_model"],
        num_layers=config["n_layers"],
        num_heads=heads,
        num_kv_heads=config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads),
        mlp_size=config.get("mlp_hidden_size") or config["mlp_ratio"] * config["d_model"],
        max_length=config["max_sequence_length"],
        rope_theta=config["rope_theta"],
        norm_eps=config["rms_norm_eps"],
        qkv_bias=config["include_qkv_bias"],
    )


def _dream_shape(config: Mapping[str, Any]) -> TransformerConfig:
    off = ("tie_word_embeddings", "use_sliding_window")
    _check(config, {"hidden_act": "silu", "rope_scaling": None} | dict.fromkeys(off, False))
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


def _blocks(theirs: str, parts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((f"{theirs}.*.{part}", f"blocks.*.{ours}") for part, ours in parts.items())


FAMILIES = {
    "diffpo": Family(lambda config: TransformerConfig(**config["shape"])),
    "llada": Family(
        _llada_shape,
        (
            ("model.transformer.wte", "embed"),
            ("model.transformer.ln_f", "norm"),
            ("model.transformer.ff_out", "head"),
            *_blocks(
                "model.transformer.blocks",
                {
                    "attn_norm": "attn_norm",
                    "q_proj": "attn.q_proj",
                    "k_proj": "attn.k_proj",
                    "v_proj": "attn.v_proj",
                    "attn_out": "attn.o_proj",
                    "ff_norm": "mlp_norm",
                    "ff_proj": "gate_proj",
                    "up_proj": "up_proj",
                    "ff_out": "down_proj",
                },
            ),
        ),
    ),
    "Dream": Family(
        _dream_shape,
        (
            ("model.embed_tokens", "embed"),
            ("model.norm", "norm"),
            ("lm_head", "head"),
            *_blocks(
                "model.layers",
                {
                    "input_layernorm": "attn_norm",
                    "self_attn.q_proj": "attn.q_proj",
                    "self_attn.k_proj": "attn.k_proj",
                    "self_attn.v_proj": "attn.v_proj",
                    "self_attn.o_proj": "attn.o_proj",
                    "post_attention_layernorm": "mlp_norm",
                    "mlp.gate_proj": "gate_proj",
                    "mlp.up_proj": "up_proj",
                    "mlp.down_proj": "down_proj",
                },
            ),
        ),
    ),
}

_LLADA_8B = {
    "model_type": "llada",
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "include_qkv_bias": False,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
}
_DREAM_7B = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "mask_token_id": 151666,
    "pad_token_id": 151643,
}
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Base": _LLADA_8B,
    "GSAI-ML/LLaDA-8B-Instruct": _LLADA_8B,
    "GSAI-ML/LLaDA-1.5": _LLADA_8B,
    "Dream-org/Dream-v0-Base-7B": _DREAM_7B,
    "Dream-org/Dream-v0-Instruct-7B": _DREAM_7B,
}
"""What the config.json of well-known hub models says of their shape, for estimates before anything is downloaded."""
