"""One transformer for every family: RMSNorm, half-split RoPE, grouped-query attention, SwiGLU.

Options of a family: queries, keys and values with biases, or from one product; their norm by heads; a size of heads of
its own; RoPE on a share of each, or stretched; a mixture of experts for SwiGLU; a tied head; attention to the whole row
or block by block, with a context that is causal or not.

Rows of any length are packed end to end without padding, N tokens in all: `diffpo.models.attention` says who sees whom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffpo.config import ModelConfig
from diffpo.models.attention import LayerCache, Packing, attend
from diffpo.models.experts import Experts, ExpertsConfig, SwiGLU
from diffpo.models.pointwise import EAGER, compiled
from diffpo.models.rotary import rotation_table
from diffpo.types import Blocks

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of RoPE's angles at each token, [N, 1, D / 2]."""


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the denoiser; the defaults of a family stand in its preset."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_size: int
    max_length: int = 4096
    rope_theta: float = 500_000.0
    rope_scaling: Mapping[str, Any] | None = field(default=None, hash=False)
    """How positions are stretched, as config.json says it (`diffpo.models.rotary`)."""
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    head_dim: int | None = None
    """Size of a head where it is not hidden_size / num_heads (Qwen3)."""
    qk_norm: bool = False
    """RMSNorm of each head of queries and keys before RoPE (Qwen3)."""
    qkv_fused: bool = False
    """Queries, keys and values are one linear's outputs, in this order (LLaDA2)."""
    rotary_share: float = 1.0
    """Share of a head, from its start, that RoPE turns (LLaDA2: a half)."""
    experts: ExpertsConfig | None = None
    """A mixture of experts in the place of SwiGLU (LLaDA-MoE, LLaDA2)."""
    tied: bool = False
    """The head's weight is the embeddings'."""
    learned_positions: bool = False
    """Add a learned embedding of the absolute position, which a tiny model on a fixed layout learns faster with."""
    shift: int = 0
    """Hidden state at position p predicts the token at p + shift (Dream: 1)."""
    block_length: int | None = None
    """Attention is block-causal: a token sees its block of so many, and those before it. None: the whole row.

    A request may have blocks of another length."""
    blocks_from: Literal["canvas", "row"] = "canvas"
    """Where blocks are counted from: bd3lm's where the canvas begins, SDAR's where the row does."""
    causal_context: bool = False
    """Tokens of the prompt and of finished blocks see themselves and those before (Nemotron-Labs-Diffusion)."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_size", "max_length")
        sizes += tuple(name for name in ("head_dim", "block_length") if getattr(self, name) is not None)
        for names, kinds in ((sizes, int), (("rope_theta", "norm_eps"), int | float)):
            for name in names:
                value = getattr(self, name)
                none = name == "num_layers" and value == 0  # a plan measures what lies around the blocks
                if not isinstance(value, kinds) or (value <= 0 and not none):
                    raise ValueError(f"{name} must be a{' whole' if kinds is int else ''} number > 0, got {value!r}")
        if self.causal_context and self.block_length is None:
            raise ValueError("causal_context is a model's that has blocks: give block_size")

    @classmethod
    def tiny(cls, vocab_size: int, config: ModelConfig) -> TransformerConfig:
        """The shape of diffpo's own models, as a config describes it."""
        own: dict[str, Any] = {"max_length": 256, "rope_theta": 10_000.0, "learned_positions": True}
        return cls(vocab_size, num_kv_heads=config.num_heads, **vars(config), **own)

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def rotary_size(self) -> int:
        """Dimensions of a head that RoPE turns."""
        return int(self.head_size * self.rotary_share)

    @property
    def query_size(self) -> int:
        """Queries of a token, all heads together; keys, and values, are `kv_size`."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_size

    def blocks(self, prompt_length: int, block_length: int) -> Blocks | None:
        """Who sees whom in a row that is decoded in blocks of `block_length`; None: all see each other."""
        if self.block_length is None:
            return None
        return Blocks(block_length, prompt_length % block_length if self.blocks_from == "row" else 0)


class Attention(nn.Module):
    """Each token's attention to the keys of its row that it sees."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.sizes = (config.query_size, config.kv_size, config.kv_size)
        if config.qkv_fused:
            self.qkv_proj = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.qkv_bias)
        else:
            self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=config.qkv_bias)
            self.k_proj = nn.Linear(config.hidden_size, config.kv_size, bias=config.qkv_bias)
            self.v_proj = nn.Linear(config.hidden_size, config.kv_size, bias=config.qkv_bias)
        self.qkv_fused = config.qkv_fused
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.pointwise = EAGER

    def forward(
        self, x: Tensor, rotation: Rotation, packing: Packing, queries: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        q, k, v = self._project(x, queries)
        k = self.pointwise.rotate(self.k_norm(k), *rotation)
        if cache is not None:
            k, v = cache.update(k, v)
        labels = None
        if queries is not None:
            rotation = rotation[0][queries], rotation[1][queries]
            labels = packing.labels[queries] if packing.labels is not None else None
        q = self.pointwise.rotate(self.q_norm(q), *rotation)
        return self.o_proj(attend(q, k, v, packing, "fresh" if queries is None else "wanted", labels))

    def _project(self, x: Tensor, queries: Tensor | None) -> Iterator[Tensor]:
        """Queries of the wanted tokens, keys and values of all, by heads: [N, H, D] each."""
        if self.qkv_fused:
            q, k, v = self.qkv_proj(x).split(self.sizes, dim=-1)
            q = q if queries is None else q[queries]
        else:
            k, v = self.k_proj(x), self.v_proj(x)
            q = self.q_proj(x if queries is None else x[queries])
        return (part.unflatten(-1, (-1, self.head_size)) for part in (q, k, v))


class RMSNorm(nn.Module):
    """x / rms(x) * weight, normalised in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.pointwise = EAGER

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise.rms_norm(x, self.weight, self.eps)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, or a mixture of experts; the `number`-th of a model."""

    def __init__(self, config: TransformerConfig, number: int) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.experts = None
        if config.experts and number >= config.experts.dense_blocks:
            self.experts = Experts(config.experts, config.hidden_size)
        else:
            self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
            self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
            self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)
        self.pointwise = EAGER

    def forward(
        self, x: Tensor, rotation: Rotation, packing: Packing, queries: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        update = self.attn(self.attn_norm(x), rotation, packing, queries, cache)
        x = (x if queries is None else x[queries]) + update
        h = self.mlp_norm(x)
        if self.experts is not None:
            return x + self.experts(h)
        return x + self.down_proj(self.pointwise.swiglu(self.gate_proj(h), self.up_proj(h)))


class TiedHead(nn.Module):
    """A head whose weight is the embeddings', and no parameter of its own: learned, counted, saved and sharded once."""

    def __init__(self, embed: nn.Embedding) -> None:
        super().__init__()
        self._embed = (embed,)  # in a tuple, it is no module of this one

    @property
    def weight(self) -> Tensor:
        return self._embed[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight)


def _embedding(count: int, width: int) -> nn.Embedding:
    """With whatever lies there: weights are read, or drawn by a key, and torch's own draws take seconds to import."""
    return nn.Embedding.from_pretrained(torch.empty(count, width), freeze=False)


class Transformer(nn.Module):
    """Token ids [N] and their packing to final hidden states [N, D]; `head` maps those one asks for to logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = _embedding(config.vocab_size, config.hidden_size)
        self.places = _embedding(config.max_length, config.hidden_size) if config.learned_positions else None
        self.blocks = nn.ModuleList(Block(config, number) for number in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = (
            TiedHead(self.embed) if config.tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.angles: Tensor
        self.rotary_gain = 1.0
        self.gradient_checkpointing = False
        """Keep each block's input alone for the backward pass and compute the block again: less memory, more time."""
        self.compute_dtype: torch.dtype | None = None
        """Dtype of matrix products where it is not the weights' own (torch.autocast); None: the weights' own."""
        self.register_buffer("angles", torch.empty(config.max_length, config.rotary_size // 2), persistent=False)
        if not self.angles.is_meta:
            self.initialize_buffers()

    def forward(
        self, ids: Tensor, packing: Packing, queries: Tensor | None = None, caches: Sequence[LayerCache] | None = None
    ) -> Tensor:
        """Final hidden states [N, D], or [Q, D] of the tokens at `queries` [Q] alone, as the packing's runs count them.

        Queries beyond those of the runs make up a number and mean nothing. With `caches`, one a block, `ids` are the
        fresh tokens [M] of each run and the packing's positions are theirs.
        """
        with self.autocast():
            return self._hidden(ids, packing, queries, caches)

    def _hidden(
        self, ids: Tensor, packing: Packing, queries: Tensor | None, caches: Sequence[LayerCache] | None
    ) -> Tensor:
        longest = packing.longest or max(run.length for run in packing.runs)
        if longest > self.config.max_length:
            raise ValueError(
                f"a row of {longest} tokens exceeds the model's {self.config.max_length}: shorten the prompt "
                "or gen_length"
            )
        angles = self.angles[packing.positions][:, None]
        rotation = angles.cos() * self.rotary_gain, angles.sin() * self.rotary_gain
        x = self.embed(ids)
        if self.places is not None:
            x = x + self.places(packing.positions)
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            # nothing reads the last block but the head: it computes what is asked for
            wanted = queries if index == last else None
            cache = caches[index] if caches else None
            if self.gradient_checkpointing and torch.is_grad_enabled():
                inputs = (x, rotation, packing, wanted, cache)
                x = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # nothing is drawn
            else:
                x = block(x, rotation, packing, wanted, cache)
        return self.norm(x)

    def fuse(self) -> None:
        """Compile what lies between matrix products (`diffpo.models.pointwise`): the same values to rounding."""
        for module in self.modules():
            if isinstance(module, RMSNorm | Attention | Block | Experts | SwiGLU):
                module.pointwise = compiled()

    def autocast(self) -> torch.autocast:
        """The context of matrix products in `compute_dtype`."""
        device = self.head.weight.device.type
        return torch.autocast(device, self.compute_dtype, enabled=self.compute_dtype is not None)

    def initialize_buffers(self, device: torch.device | None = None) -> None:
        """Compute what no checkpoint holds: the angles of RoPE."""
        shape = self.config
        table, gain = rotation_table(shape.max_length, shape.rotary_size, shape.rope_theta, shape.rope_scaling)
        self.angles, self.rotary_gain = table.to(device), gain

    def initialize(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal with standard deviation 0.02, residual outputs scaled down by depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                residual = name.removesuffix(".weight").endswith(("o_proj", "down_proj"))
                std = 0.02 / (2 * self.config.num_layers) ** 0.5 if residual else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
