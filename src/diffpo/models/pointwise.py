"""What lies between matrix products: RMSNorm, RoPE and SwiGLU. Compiled, each is one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, normalised in fp32."""
    wide = x.float()
    return weight * (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads [N, H, D] by angles [N, 1, D / 2] (RoPE): the first half of D against the second, in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202)."""
    return F.silu(gate) * up


@dataclass(frozen=True)
class Pointwise:
    """The three, eager or compiled."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]


EAGER = Pointwise(rms_norm, rotate, swiglu)


@cache
def compiled() -> Pointwise:
    """Fused by torch.compile for any number of tokens; how rows are packed is no business of theirs."""
    fuse = partial(torch.compile, dynamic=True)
    return Pointwise(fuse(rms_norm), fuse(rotate), fuse(swiglu))
