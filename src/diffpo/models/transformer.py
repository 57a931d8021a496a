"""One bidirectional transformer for every family: RMSNorm, half-split RoPE, grouped-query attention, SwiGLU.

Rows of any length are packed end to end without padding, so no row ever sees another: N tokens in all. Attention runs
over runs of rows of equal length, everything else over the N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


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
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    learned_positions: bool = False
    """Add a learned embedding of the absolute position, which a tiny model on a fixed layout learns faster with."""
    shift: int = 0
    """Hidden state at position p predicts the token at p + shift (Dream: 1)."""

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, eq=False)
class Packing:
    """Where R rows lie in N packed tokens. Rows are stored by ascending length."""

    positions: Tensor  # [N] position of each token in its row
    starts: Tensor  # [R] first token of each row, in the caller's order of rows
    runs: tuple[tuple[int, int], ...]  # (rows, length) of each run of rows of equal length


def pack(sequences: Tensor, lengths: Tensor) -> tuple[Tensor, Packing]:
    """Pack right-padded rows [R, S] of `lengths` [R] into token ids [N] and their packing."""
    order = lengths.argsort(stable=True)
    ordered = lengths[order]
    keep = torch.arange(sequences.shape[1], device=sequences.device) < ordered[:, None]
    sizes, counts = ordered.unique_consecutive(return_counts=True)
    ends = ordered.cumsum(0)
    packing = Packing(
        positions=keep.nonzero()[:, 1],
        starts=torch.empty_like(ends).scatter(0, order, ends - ordered),
        runs=tuple(zip(counts.tolist(), sizes.tolist(), strict=True)),
    )
    return sequences[order][keep], packing


class Attention(nn.Module):
    """Full bidirectional attention within each row."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        kv_size = config.num_kv_heads * config.head_size
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], runs: tuple[tuple[int, int], ...]) -> Tensor:
        q, k, v = (
            projection(x).unflatten(-1, (-1, self.head_size)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rotation), rotate(k, rotation)
        outputs, start = [], 0
        for rows, length in runs:
            part = slice(start, start + rows * length)
            q_run, k_run, v_run = (t[part].unflatten(0, (rows, length)).transpose(1, 2) for t in (q, k, v))
            out = F.scaled_dot_product_attention(q_run, k_run, v_run, enable_gqa=q.shape[1] != k.shape[1])
            outputs.append(out.transpose(1, 2).reshape(rows * length, -1))
            start = part.stop
        return self.o_proj(torch.cat(outputs))


def rotation_table(length: int, head_size: int, theta: float) -> Tensor:
    """Angles of RoPE (arXiv 2104.09864), [length, head_size / 2], fp32."""
    frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    return torch.outer(torch.arange(length, dtype=torch.float32), frequencies)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate heads [N, H, D] by (cos, sin) [N, 1, D / 2]: the first half of D against the second, in fp32."""
    cos, sin = rotation
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, normalised in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], runs: tuple[tuple[int, int], ...]) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotation, runs)
        h = self.mlp_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))


class Transformer(nn.Module):
    """Token ids [N] and their packing to final hidden states [N, D]; `head` maps those one asks for to logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.places = nn.Embedding(config.max_length, config.hidden_size) if config.learned_positions else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.angles: Tensor
        self.gradient_checkpointing = False
        """Keep each block's input alone for the backward pass and compute the block again: less memory, more time."""
        self.compute_dtype: torch.dtype | None = None
        """Dtype of matrix products where it is not the weights' own (torch.autocast); None: the weights' own."""
        self.initialize_buffers()

    def forward(self, ids: Tensor, packing: Packing) -> Tensor:
        with self.autocast():
            return self._hidden(ids, packing)

    def _hidden(self, ids: Tensor, packing: Packing) -> Tensor:
        longest = packing.runs[-1][1]
        if longest > self.config.max_length:
            raise ValueError(
                f"a row of {longest} tokens exceeds the model's {self.config.max_length}: shorten the prompt "
                "or gen_length"
            )
        angles = self.angles[packing.positions][:, None]
        rotation = angles.cos(), angles.sin()
        x = self.embed(ids)
        if self.places is not None:
            x = x + self.places(packing.positions)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, packing.runs, use_reentrant=False)
            else:
                x = block(x, rotation, packing.runs)
        return self.norm(x)

    def autocast(self) -> torch.autocast:
        """The context of matrix products in `compute_dtype`."""
        device = self.head.weight.device.type
        return torch.autocast(device, self.compute_dtype, enabled=self.compute_dtype is not None)

    def initialize_buffers(self, device: torch.device | None = None) -> None:
        """Compute what no checkpoint holds: the angles of RoPE."""
        table = rotation_table(self.config.max_length, self.config.head_size, self.config.rope_theta)
        self.register_buffer("angles", table.to(device), persistent=False)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw fresh weights: normal with standard deviation 0.02, residual outputs scaled down by depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / (2 * self.config.num_layers) ** 0.5 if residual else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
