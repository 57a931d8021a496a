"""Checkpoint families: how config.json and module names of each map onto the one transformer, and back.

A model of one more family is one entry of `FAMILIES`, and one of `published.PUBLISHED` if it is to be planned unseen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from diffpo.config import suggest
from diffpo.models.experts import ExpertsConfig
from diffpo.models.rotary import SCALED
from diffpo.models.transformer import TransformerConfig


@dataclass(frozen=True)
class Family:
    """A checkpoint layout: `shape` reads its config.json, `modules` are (its name, ours), * a block's number.

    A pair stands for what is below its module as well; the first that fits counts.
    """

    shape: Callable[[Mapping[str, Any]], TransformerConfig]
    modules: tuple[tuple[str, str], ...] = ()
    mixes: bool = False
    """Its blocks are mixtures of experts."""
    own_ids: bool = False
    """The tokenizer, where there is one, has the last word on ids: its mask, and its padding, which fills canvases."""
    ids: Mapping[str, int] = field(default_factory=dict)
    """Those that its code has, where config.json does not say them."""

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


def kind_of(config: Mapping[str, Any]) -> str:
    """The family that config.json is of, by model_type; LLaDA-MoE calls itself llada as the dense model does."""
    kind = str(config.get("model_type"))
    return "lladamoe" if kind == "llada" and config.get("num_experts") else kind


def check_known(config: Mapping[str, Any], path: Path) -> None:
    """ValueError for a model that cannot be loaded, by its config.json at `path`, with the reason where it is known."""
    if "model_type" not in config and "output" in config:
        raise ValueError(f"{path}: the settings of a run that has no policy yet: resume it")
    kind = kind_of(config)
    of_kind = kind in FAMILIES and FAMILIES[kind].mixes
    experts = None if of_kind else next((f"{key} = {config[key]}" for key in EXPERTS if config.get(key)), None)
    reason = f"has mixtures of experts ({experts})" if experts else LACKING.get(kind)
    if reason:
        raise ValueError(f"{path}: this model {reason}; diffpo loads {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        raise ValueError(f"{path}: model_type {kind!r} is not a family diffpo loads{suggest(kind, FAMILIES)}")


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


def _qwen_shape(
    config: Mapping[str, Any],
    qkv_bias: bool = False,
    qk_norm: bool = False,
    shift: int = 0,
    block_length: int | None = None,
    blocks_from: Literal["canvas", "row"] = "canvas",
    partly_turned: bool = False,
) -> TransformerConfig:
    """What Qwen and Llama write; the arguments are what their code has and their config.json does not say."""
    off, rope = ("use_sliding_window", "attention_bias", "mlp_bias"), _rope(config)
    _check(config, {"hidden_act": "silu"} | dict.fromkeys(off, False))
    if not partly_turned:
        _check({"partial_rotary_factor": rope["rotary_share"]}, {"partial_rotary_factor": 1.0})
    layers = config.get("layer_types") or ()
    _check({"layer_types": sorted(set(layers))}, {"layer_types": ["full_attention"] if layers else []})
    return TransformerConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        mlp_size=config["intermediate_size"],
        max_length=config["max_position_embeddings"],
        **rope,
        norm_eps=config["rms_norm_eps"],
        qkv_bias=qkv_bias,
        head_dim=config.get("head_dim"),
        qk_norm=qk_norm,
        tied=config.get("tie_word_embeddings", False),
        shift=int(config.get("right_shift_logits", shift)),
        block_length=config.get("block_size") or block_length,
        blocks_from=blocks_from,
        causal_context=bool(config.get("causal_context")),
    )


def _llada_moe_shape(config: Mapping[str, Any]) -> TransformerConfig:
    """LLaDA-MoE: Qwen3's attention, and experts of which each counts by its softmax."""
    frequency, layers = list(config["moe_layer_freq"]), config["num_hidden_layers"]
    dense = frequency.index(1) if 1 in frequency else layers
    off = dict.fromkeys(("moe_router_enable_expert_bias", "clip_qkv"))
    _check({**config, **{key: config.get(key) or None for key in off}}, {"moe_router_score_function": "softmax", **off})
    _check({"moe_layer_freq": frequency}, {"moe_layer_freq": [0] * dense + [1] * (layers - dense)})
    experts = ExpertsConfig(
        count=config["num_experts"],
        chosen=config["num_experts_per_tok"],
        size=config["expert_intermediate_size"],
        shared_size=config.get("shared_expert_intermediate_size") or 0,
        dense_blocks=dense,
    )
    like_qwen = {**config, "intermediate_size": config["dense_intermediate_size"]}
    return replace(_qwen_shape(like_qwen, qk_norm=bool(config.get("qk_layernorm"))), experts=experts)


def _sdar_moe_shape(config: Mapping[str, Any]) -> TransformerConfig:
    """SDAR with Qwen3's mixture of experts in every block."""
    _check(config, {"decoder_sparse_step": 1, "mlp_only_layers": []})
    experts = ExpertsConfig(
        count=config["num_experts"],
        chosen=config["num_experts_per_tok"],
        size=config["moe_intermediate_size"],
        normalized=config["norm_topk_prob"],
    )
    return replace(_qwen_shape(config, qk_norm=True, block_length=4, blocks_from="row"), experts=experts)


def _llada2_shape(config: Mapping[str, Any]) -> TransformerConfig:
    """LLaDA2: block-causal, half of each head turned, experts in groups with one that every token goes to."""
    off = dict.fromkeys(("use_bias", "norm_head"), False)
    _check(config, {"norm_topk_prob": True, "score_function": "sigmoid", "moe_router_enable_expert_bias": True} | off)
    experts = ExpertsConfig(
        count=config["num_experts"],
        chosen=config["num_experts_per_tok"],
        size=config["moe_intermediate_size"],
        shared_size=config["moe_intermediate_size"] * (config.get("num_shared_experts") or 0),
        dense_blocks=config.get("first_k_dense_replace", 0),
        score="sigmoid",
        normalized=config["num_experts_per_tok"] > 1,
        scale=config.get("routed_scaling_factor", 1.0),
        biased=True,
        groups=config["n_group"],
        chosen_groups=config["topk_group"],
    )
    shape = _qwen_shape(
        config,
        qkv_bias=config.get("use_qkv_bias", False),
        qk_norm=config.get("use_qk_norm", True),
        block_length=32,
        blocks_from="row",
        partly_turned=True,
    )
    return replace(shape, qkv_fused=True, experts=experts)


def _fast_dllm_shape(config: Mapping[str, Any]) -> TransformerConfig:
    """Fast-dLLM v2: Qwen2's layers in blocks from where the row begins; a state predicts the next position's token."""
    blocks = {"block_size": config.get("block_size") or config.get("bd_size")}
    return _qwen_shape({**config, **blocks}, qkv_bias=True, shift=1, block_length=32, blocks_from="row")


def _nemotron_shape(config: Mapping[str, Any]) -> TransformerConfig:
    """Nemotron-Labs-Diffusion: Ministral's layers, a causal context, and a block that sees it and itself."""
    _check(config, {"sliding_window": None})
    shape, rope = _qwen_shape(config, block_length=32), config.get("rope_parameters") or {}
    # from there on queries would be scaled by their position (Llama 4)
    scaled_from = rope.get("original_max_position_embeddings") if rope.get("llama_4_scaling_beta") else None
    return replace(shape, causal_context=True, max_length=min(shape.max_length, scaled_from or shape.max_length))


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's base, scaling and share of a head, from either place that transformers writes them to.

    ValueError for what is not there.
    """
    rope = {key: config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)}
    settings = next(iter(rope.values()), {})
    kind = settings.get("rope_type") or settings.get("type") or "default"
    theta, scaling = settings.get("rope_theta") or config["rope_theta"], None
    if kind != "default":
        if kind not in SCALED or any(key not in settings for key in SCALED[kind]):
            _check(rope, dict.fromkeys(rope))
        elsewhere = ("type", "rope_theta", "partial_rotary_factor")
        scaling = {key: value for key, value in settings.items() if key not in elsewhere} | {"rope_type": kind}
    share = settings.get("partial_rotary_factor") or config.get("partial_rotary_factor", 1.0)
    return {"rope_theta": theta, "rope_scaling": scaling, "rotary_share": share}


_LLADA = (
    ("model.transformer.wte", "embed"),
    ("model.transformer.ln_f", "norm"),
    ("model.transformer.ff_out", "head"),
    ("model.transformer.blocks.*.attn_norm", "blocks.*.attn_norm"),
    ("model.transformer.blocks.*.q_proj", "blocks.*.attn.q_proj"),
    ("model.transformer.blocks.*.k_proj", "blocks.*.attn.k_proj"),
    ("model.transformer.blocks.*.v_proj", "blocks.*.attn.v_proj"),
    ("model.transformer.blocks.*.attn_out", "blocks.*.attn.o_proj"),
    ("model.transformer.blocks.*.ff_norm", "blocks.*.mlp_norm"),
    ("model.transformer.blocks.*.ff_proj", "blocks.*.gate_proj"),
    ("model.transformer.blocks.*.up_proj", "blocks.*.up_proj"),
    ("model.transformer.blocks.*.ff_out", "blocks.*.down_proj"),
)
_QWEN = (
    ("model.embed_tokens", "embed"),
    ("model.norm", "norm"),
    ("lm_head", "head"),
    ("model.layers.*.input_layernorm", "blocks.*.attn_norm"),
    ("model.layers.*.self_attn", "blocks.*.attn"),
    ("model.layers.*.post_attention_layernorm", "blocks.*.mlp_norm"),
    ("model.layers.*.mlp", "blocks.*"),  # gate_proj, up_proj, down_proj
)
_EXPERTS = (
    ("model.layers.*.mlp.gate", "blocks.*.experts.router"),
    ("model.layers.*.mlp.experts", "blocks.*.experts"),
    *_QWEN,
)
_LLADA2 = (
    ("model.layers.*.mlp.shared_experts", "blocks.*.experts.shared"),
    ("model.word_embeddings", "embed"),
    ("model.layers.*.attention.query_key_value", "blocks.*.attn.qkv_proj"),
    ("model.layers.*.attention.dense", "blocks.*.attn.o_proj"),
    ("model.layers.*.attention.query_layernorm", "blocks.*.attn.q_norm"),
    ("model.layers.*.attention.key_layernorm", "blocks.*.attn.k_norm"),
    *_EXPERTS,
)
_NEMOTRON = (
    ("encoder.embed_tokens", "embed"),
    ("encoder.norm", "norm"),
    ("diffusion_head", "head"),
    *((theirs.replace("model.", "encoder."), ours) for theirs, ours in _QWEN[3:]),
)
_LLADA_MOE = (("model.layers.*.shared_expert", "blocks.*.experts.shared"), *_EXPERTS)

FAMILIES = {
    "diffpo": Family(lambda config: TransformerConfig(**config["shape"])),
    "llada": Family(_llada_shape, _LLADA),
    "Dream": Family(partial(_qwen_shape, qkv_bias=True, shift=1), _QWEN),
    "a2d-qwen2": Family(partial(_qwen_shape, qkv_bias=True), _QWEN, own_ids=True),
    "a2d-qwen3": Family(partial(_qwen_shape, qk_norm=True), _QWEN, own_ids=True),
    "a2d-llama": Family(_qwen_shape, _QWEN, own_ids=True),
    "Fast_dLLM_Qwen": Family(_fast_dllm_shape, _QWEN, ids={"mask_token_id": 151665, "eos_token_id": 151645}),
    "nemotron_labs_diffusion": Family(_nemotron_shape, _NEMOTRON),
    "lladamoe": Family(_llada_moe_shape, _LLADA_MOE, mixes=True, own_ids=True),
    "llada2_moe": Family(_llada2_shape, _LLADA2, mixes=True, own_ids=True),
    "sdar": Family(partial(_qwen_shape, qk_norm=True, block_length=4, blocks_from="row"), _QWEN, own_ids=True),
    "sdar_moe": Family(_sdar_moe_shape, _EXPERTS, mixes=True, own_ids=True),
}

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of config.json by which mixtures of experts are known, whatever their model_type."""
_CAUSAL = "predicts the next token: it is no masked diffusion model unless it is made one first (A2D)"
LACKING = {
    "diffusion_gemma": "has no mask token: it renoises from all tokens, so that none has a commit to be scored at",
    "qwen2": _CAUSAL,
    "qwen3": _CAUSAL,
    "llama": _CAUSAL,
}
"""Why models that people try cannot be loaded, by model_type."""
