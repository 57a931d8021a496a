"""The Bernoulli head pi_phi(positions | state): every masked position of a block has its own chance to be committed."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffpo.config import BernoulliConfig
from diffpo.functional.bernoulli import draw_positions, positions_logprob
from diffpo.functional.random import make_key
from diffpo.models.sampler_head import SamplerHead

NUM_HEADS = 2
ROPE_THETA = 10_000.0
TOKEN = -1.0
"""Feature of a position that has its token; 0 is that of a place in the window that is not of the block."""


class BernoulliHead(SamplerHead):
    """u_i = sigmoid(f_i): the chance that a call commits the masked position i of its active block (arXiv 2512.09106).

    f is one transformer block over the W positions of a window, of each of which it sees the largest probability,
    whether it is masked, and the share of the block that is. Its last layer starts at zero, so that every chance is
    `config.chance_init` at first. `diffpo.functional.bernoulli` says what is committed, and how probable that is;
    without noise it is what is likelier than not.

    The features of a call are W numbers: the largest probability of a mask, TOKEN, or 0 outside the block. Its action
    is W bools, what it committed. So a completion of 256 tokens takes 5 bytes a call and position: 40 KB in blocks of
    32, 320 KB in one block, if each call commits one. (Hidden states of width 4096, as dUltra's planner sees them,
    arXiv 2512.21446, would be 540 MB in bf16.)

    All is computed in fp64: a sum over a window must not show how wide the windows beside it are.
    """

    kind: ClassVar[str] = "bernoulli"
    action_dtype: ClassVar[torch.dtype] = torch.bool

    def __init__(self, config: BernoulliConfig, seed: int = 0) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.embed = nn.Linear(3, width)
        self.attn_norm, self.mlp_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.qkv_proj, self.o_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up_proj, self.down_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.out = nn.Linear(width, 1)
        self.double()
        self._initialize(seed)

    @torch.no_grad()
    def _initialize(self, seed: int) -> None:
        """Matrices keep the size of what goes through them; those that add to the residual, and the last, are zero."""
        generator = torch.Generator().manual_seed(make_key(seed, "bernoulli") % 2**63)
        for linear in (self.embed, self.qkv_proj, self.up_proj):
            linear.weight.normal_(std=linear.in_features**-0.5, generator=generator)
        for linear in (self.o_proj, self.down_proj, self.out):
            linear.weight.zero_()
        for linear in (self.embed, self.qkv_proj, self.o_proj, self.up_proj, self.down_proj, self.out):
            linear.bias.zero_()
        self.out.bias.fill_(math.log(self.config.chance_init / (1 - self.config.chance_init)))

    @property
    def spoken(self) -> str:
        return "a chance a position"

    def shapes(self, window: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (window,), (window,)

    def forward(self, features: Tensor) -> Tensor:
        """f of the features of calls [N, W], in fp64; its values mean nothing where no mask is."""
        there, masked = features != 0, features > 0
        share = masked.sum(-1, keepdim=True) / there.sum(-1, keepdim=True).clamp_min(1)
        seen = torch.stack([features.clamp_min(0), masked.to(features), share.expand_as(features)], dim=-1)
        x = self.embed(seen.double())
        x = x + self.o_proj(self._attend(self.attn_norm(x), there))
        x = x + self.down_proj(torch.nn.functional.gelu(self.up_proj(self.mlp_norm(x))))
        return self.out(self.norm(x)).squeeze(-1)

    def _attend(self, x: Tensor, there: Tensor) -> Tensor:
        """Attention among the positions that are there, [N, W, D]."""
        q, k, v = (part.unflatten(-1, (NUM_HEADS, -1)).transpose(1, 2) for part in self.qkv_proj(x).chunk(3, dim=-1))
        q, k = _rotate(q), _rotate(k)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~there[:, None, None], -1e30)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def choose(self, features: Tensor, uniforms: Tensor, explore: Tensor) -> tuple[Tensor, Tensor]:
        """What calls commit, [N, W] bool, and its log-probability, [N]; rows where `explore` is False take no noise."""
        f, masked = self(features), features > 0
        committed = draw_positions(f, masked, torch.where(explore[:, None], uniforms, 0.5))
        return committed, positions_logprob(f, masked, committed).float()


def _rotate(x: Tensor) -> Tensor:
    """RoPE (arXiv 2104.09864) of heads [..., W, D], whose angles are made where x is."""
    width, size = x.shape[-2:]
    places, halves = (torch.arange(count, dtype=x.dtype, device=x.device) for count in (width, size // 2))
    angles = places[:, None] * ROPE_THETA ** (-2 * halves / size)
    (first, second), cos, sin = x.chunk(2, dim=-1), angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
