"""One bidirectional transformer for every family: RMSNorm, half-split RoPE, grouped-query attention, SwiGLU.

Options of a family: biases of queries, keys and values; their norm by heads; a size of heads of its own; a tied head.

Rows of any length are packed end to end without padding, so no row ever sees another: N tokens in all. Attention runs
over runs of rows of equal length, everything else over the N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint

from diffpo.models.pointwise import EAGER, compiled

TAKES_GROUPS = "enable_gqa" in signature(varlen_attn).parameters
"""Whether varlen_attn takes fewer keys than queries: not in torch 2.11."""

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
    norm_eps: float = 1e-5
    qkv_bias: bool = False
    head_dim: int | None = None
    """Size of a head where it is not hidden_size / num_heads (Qwen3)."""
    qk_norm: bool = False
    """RMSNorm of each head of queries and keys before RoPE (Qwen3)."""
    tied: bool = False
    """The head's weight is the embeddings'."""
    learned_positions: bool = False
    """Add a learned embedding of the absolute position, which a tiny model on a fixed layout learns faster with."""
    shift: int = 0
    """Hidden state at position p predicts the token at p + shift (Dream: 1)."""

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_heads

    @property
    def query_size(self) -> int:
        """Queries of a token, all heads together; keys, and values, are `kv_size`."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_size


class Run(NamedTuple):
    """Neighbouring rows of a packing that are alike."""

    rows: int
    length: int
    """Tokens of each row."""
    fresh: int
    """Tokens of each row that go through the blocks; keys and values of the others come from a cache."""
    wanted: int
    """Tokens of each row whose final hidden state is asked for."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where R rows lie in N packed tokens. Rows are stored run by run, by ascending length."""

    positions: Tensor  # [N] position of each token in its row
    starts: Tensor  # [R] first token of each row, in the caller's order of rows
    runs: tuple[Run, ...]

    @cached_property
    def bounds(self) -> dict[str, Tensor]:
        """Where each stored row ends, for kernels that want it: cumulative sums [R + 1], int32, by field of `Run`."""
        rows = torch.tensor([run.rows for run in self.runs])
        bounds = {}
        for name in ("length", "fresh", "wanted"):
            sizes = torch.tensor([getattr(run, name) for run in self.runs]).repeat_interleave(rows)
            bounds[name] = to_device(torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).int(), self.starts.device)
        return bounds


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; the host does not wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def pack(sequences: Tensor, lengths: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Packing]:
    """Pack right-padded rows [R, S] of `lengths` [R] into token ids [N] and their packing.

    `wanted` [R] says of how many tokens of each row the final hidden states will be asked for; all unless given.
    """
    wanted = lengths if wanted is None else wanted
    shape = (lengths << 32) + wanted
    order = shape.argsort(stable=True)
    keep = torch.arange(sequences.shape[1], device=sequences.device) < lengths[order][:, None]
    kinds, counts = shape[order].unique_consecutive(return_counts=True)
    ends = lengths[order].cumsum(0)
    numbers = torch.stack([counts, kinds >> 32, kinds >> 32, kinds & 0xFFFFFFFF], dim=1)
    packing = Packing(
        positions=keep.nonzero()[:, 1],
        starts=torch.empty_like(ends).scatter(0, order, ends - lengths[order]),
        runs=tuple(Run(*run) for run in numbers.tolist()),
    )
    return sequences[order][keep], packing


def windows(packing: Packing, first: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of `wanted` [R] positions of each row from `first` [R] on, as `Transformer` takes them: [Q].

    And where among them those of each row begin, [R]. `wanted` is that of `pack`.
    """
    order = packing.starts.argsort()
    ends = wanted[order].cumsum(0)
    begins = torch.empty_like(ends).scatter(0, order, ends - wanted[order])
    row = order.repeat_interleave(wanted[order])
    offset = torch.arange(len(row), device=row.device) - begins[row]
    return packing.starts[row] + (first[row] + offset).clamp_min(0), begins


class Attention(nn.Module):
    """Full bidirectional attention within each row."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.q_proj = nn.Linear(config.hidden_size, config.query_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.query_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.pointwise = EAGER

    def forward(
        self, x: Tensor, rotation: Rotation, packing: Packing, queries: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        rotate = self.pointwise.rotate
        k = rotate(self.k_norm(self.k_proj(x).unflatten(-1, (-1, self.head_size))), *rotation)
        v = self.v_proj(x).unflatten(-1, (-1, self.head_size))
        if cache is not None:
            k, v = cache.update(k, v)
        if queries is not None:
            x, rotation = x[queries], (rotation[0][queries], rotation[1][queries])
        q = rotate(self.q_norm(self.q_proj(x).unflatten(-1, (-1, self.head_size))), *rotation)
        return self.o_proj(attend(q, k, v, packing, "fresh" if queries is None else "wanted"))


class LayerCache(Protocol):
    """Keys and values of one block from an earlier call (`diffpo.rollout.cache`)."""

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the tokens computed now, [M, H, D], and return those of all, [N, H, D]."""
        ...


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asking: Literal["fresh", "wanted"]) -> Tensor:
    """Attention of queries [Q, H, D] to the keys of their own row [N, H', D]; [Q, H D]. Queries beyond the runs: 0."""
    runs, grouped = packing.runs, q.shape[1] != k.shape[1]
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        sizes = [getattr(run, asking) for run in runs]
        total = sum(size * run.rows for size, run in zip(sizes, runs, strict=True))
        bounds, longest = packing.bounds, max(run.length for run in runs)
        if grouped and not TAKES_GROUPS:
            k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for t in (k, v))
        groups = {"enable_gqa": True} if grouped and TAKES_GROUPS else {}
        out: Any = varlen_attn(q[:total], k, v, bounds[asking], bounds["length"], max(sizes), longest, **groups)  # type: ignore[arg-type]
        out = out.flatten(1)
        return F.pad(out, (0, 0, 0, len(q) - total)) if total < len(q) else out  # by nothing it would still copy
    outputs, start, key_start = [], 0, 0
    for run in runs:
        size = getattr(run, asking)
        part, key_part = slice(start, start + run.rows * size), slice(key_start, key_start + run.rows * run.length)
        q_run = q[part].unflatten(0, (run.rows, size)).transpose(1, 2)
        k_run, v_run = (t[key_part].unflatten(0, (run.rows, run.length)).transpose(1, 2) for t in (k, v))
        out = F.scaled_dot_product_attention(q_run, k_run, v_run, enable_gqa=grouped)
        outputs.append(out.transpose(1, 2).reshape(run.rows * size, -1))
        start, key_start = part.stop, key_part.stop
    if start < len(q):
        outputs.append(q.new_zeros(len(q) - start, q.shape[1] * q.shape[2]))
    return torch.cat(outputs)


def rotation_table(length: int, head_size: int, theta: float) -> Tensor:
    """Angles of RoPE (arXiv 2104.09864), [length, head_size / 2], fp32."""
    frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    return torch.outer(torch.arange(length, dtype=torch.float32), frequencies)


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
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attn_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attn = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=False)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=False)
        self.pointwise = EAGER

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        packing: Packing,
        queries: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        update = self.attn(self.attn_norm(x), rotation, packing, queries, cache)
        x = (x if queries is None else x[queries]) + update
        h = self.mlp_norm(x)
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


class Transformer(nn.Module):
    """Token ids [N] and their packing to final hidden states [N, D]; `head` maps those one asks for to logits."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.places = nn.Embedding(config.max_length, config.hidden_size) if config.learned_positions else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.head = (
            TiedHead(self.embed) if config.tied else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.angles: Tensor
        self.gradient_checkpointing = False
        """Keep each block's input alone for the backward pass and compute the block again: less memory, more time."""
        self.compute_dtype: torch.dtype | None = None
        """Dtype of matrix products where it is not the weights' own (torch.autocast); None: the weights' own."""
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
        longest = max(run.length for run in packing.runs)
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
            if isinstance(module, RMSNorm | Attention | Block):
                module.pointwise = compiled()

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
