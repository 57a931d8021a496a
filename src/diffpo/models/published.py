"""What is known of well-known hub models before anything of theirs is here: shapes, and who has blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffpo.models.families import kind_of

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
_QWEN_SIZES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    "max_position_embeddings",
)


def _like_qwen(model_type: str, *sizes: int, **others: Any) -> dict[str, Any]:
    """A config.json in Qwen's keys: `_QWEN_SIZES` in their order, and what is not as it mostly is."""
    usual = {"vocab_size": 151936, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6}
    return {"model_type": model_type} | dict(zip(_QWEN_SIZES, sizes, strict=True)) | usual | others


_TIED = {"head_dim": 128, "tie_word_embeddings": True}
_DREAM_IDS = {"mask_token_id": 151666, "pad_token_id": 151643}
_DREAM_7B = _like_qwen("Dream", 3584, 18944, 28, 28, 4, 131072, vocab_size=152064, **_DREAM_IDS)
_A2D_QWEN3 = _like_qwen("a2d-qwen3", 1024, 3072, 28, 16, 8, 40960, **_TIED)
_A2D_QWEN2 = _like_qwen("a2d-qwen2", 896, 4864, 24, 14, 2, 32768, head_dim=64, tie_word_embeddings=True)
_SDAR_1_7B = _like_qwen("sdar", 2048, 6144, 28, 16, 8, 32768, block_size=4, **_TIED)
_SDAR_4B = _like_qwen("sdar", 2560, 9728, 36, 32, 8, 32768, block_size=4, **_TIED)
_SDAR_8B = _like_qwen("sdar", 4096, 12288, 36, 32, 8, 32768, block_size=4, head_dim=128)
_LLADA2_MINI = _like_qwen("llada2_moe", 2048, 5120, 20, 16, 4, 32768, head_dim=128, partial_rotary_factor=0.5) | {
    "vocab_size": 157184,
    "rope_theta": 600000.0,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
}
_BLOCKS_OF_32 = {"block_size": 32}
_NEMOTRON = _BLOCKS_OF_32 | {
    "vocab_size": 131072,
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "mask_token_id": 100,
    "eos_token_id": 11,
}
_FAST_DLLM_1_5B = _like_qwen("Fast_dLLM_Qwen", 1536, 8960, 28, 12, 2, 32768, bd_size=32, tie_word_embeddings=True)
_FAST_DLLM_7B = _like_qwen("Fast_dLLM_Qwen", 3584, 18944, 28, 28, 4, 32768, bd_size=32, vocab_size=152064)
_NEMOTRON_3B = _like_qwen("nemotron_labs_diffusion", 3072, 9216, 26, 32, 8, 16384, **_NEMOTRON)
_NEMOTRON_8B = _like_qwen("nemotron_labs_diffusion", 4096, 14336, 34, 32, 8, 16384, **_NEMOTRON)
_NEMOTRON_14B = _like_qwen("nemotron_labs_diffusion", 5120, 16384, 40, 32, 8, 16384, **_NEMOTRON)
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Base": _LLADA_8B,
    "GSAI-ML/LLaDA-8B-Instruct": _LLADA_8B,
    "GSAI-ML/LLaDA-1.5": _LLADA_8B,
    "Dream-org/Dream-v0-Base-7B": _DREAM_7B,
    "Dream-org/Dream-v0-Instruct-7B": _DREAM_7B,
    "Dream-org/Dream-Coder-v0-Base-7B": _DREAM_7B,
    "Dream-org/Dream-Coder-v0-Instruct-7B": _DREAM_7B,
    "apple/DiffuCoder-7B-Base": _DREAM_7B,
    "apple/DiffuCoder-7B-Instruct": _DREAM_7B,
    "apple/DiffuCoder-7B-cpGRPO": _DREAM_7B,
    "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1": _A2D_QWEN3,
    "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1": _A2D_QWEN3 | _BLOCKS_OF_32,
    "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1": _A2D_QWEN2,
    "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-bd3lm-v0.1": _A2D_QWEN2 | _BLOCKS_OF_32,
    "inclusionAI/LLaDA2.0-mini": _LLADA2_MINI,
    "Efficient-Large-Model/Fast_dLLM_v2_1.5B": _FAST_DLLM_1_5B,
    "Efficient-Large-Model/Fast_dLLM_v2_7B": _FAST_DLLM_7B,
    "JetLM/SDAR-1.7B-Chat": _SDAR_1_7B,
    "JetLM/SDAR-4B-Chat": _SDAR_4B,
    "JetLM/SDAR-8B-Chat": _SDAR_8B,
    "Gen-Verse/TraDo-4B-Instruct": _SDAR_4B,
    "Gen-Verse/TraDo-8B-Instruct": _SDAR_8B,
    "nvidia/Nemotron-Labs-Diffusion-3B": _NEMOTRON_3B,
    "nvidia/Nemotron-Labs-Diffusion-3B-Base": _NEMOTRON_3B,
    "nvidia/Nemotron-Labs-Diffusion-8B": _NEMOTRON_8B,
    "nvidia/Nemotron-Labs-Diffusion-8B-Base": _NEMOTRON_8B,
    "nvidia/Nemotron-Labs-Diffusion-14B": _NEMOTRON_14B,
    "nvidia/Nemotron-Labs-Diffusion-14B-Base": _NEMOTRON_14B,
}
"""What the config.json of well-known hub models says of their shape, for estimates before anything is downloaded."""


def has_blocks(name: str, config: Mapping[str, Any]) -> bool:
    """Whether the model `name` is block-causal by its config.json, or {}, by what is known of its hub id."""
    config = with_blocks(name, config or PUBLISHED.get(name, {}))
    return bool(config.get("block_size")) or kind_of(config) in ("sdar", "sdar_moe", "llada2_moe", "Fast_dLLM_Qwen")


def with_blocks(name: str, config: Mapping[str, Any], block_length: int | None = None) -> dict[str, Any]:
    """config.json of the model `name`, in blocks of `block_length` where somebody says so.

    bd3lm's config.json does not tell it from mdlm's: its hub ids are known, and of a copy somebody has to say it.
    """
    known = {key: value for key, value in PUBLISHED.get(name, {}).items() if key == "block_size"}
    own = ["bd_size"] if "bd_size" in config else []  # which Fast-dLLM v2's code reads
    return {**known, **config} | (dict.fromkeys(["block_size", *own], block_length) if block_length else {})
