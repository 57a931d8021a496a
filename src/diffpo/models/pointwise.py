"""What lies between matrix products: RMSNorm, RoPE and SwiGLU. Compiled, each is one pass over memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffpo.models.device import on_card


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, normalised in fp32; in the dtype of x, whatever the weight's."""
    wide = x.float()
    return (weight * (wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()).to(x.dtype)).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first R dimensions of heads [N, H, D] by angles [N, 1, R / 2] (RoPE), in fp32.

    The first half of R turns against the second.
    """
    half = cos.shape[-1]
    first, second, rest = x.float().split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202)."""
    gate = F.silu(gate)  # the argument is let go: three such tensors at the peak of a call, not four
    return gate * up


def even_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """The same, and a number is the same wherever in its tensor it stands; in fp32 on a CPU torch's own silu's is not.

    There what vectors leave over of a thread's share goes another way, and a last bit of a row would hang on the rows
    beside it and on the number of threads.
    """
    gate = F.silu(gate) if on_card(gate) or gate.dtype != torch.float32 else _Silu.apply(gate)
    return gate * up


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        below = x.neg().exp_().add_(1)
        return torch.div(x, below, out=below)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad, x)


@dataclass(frozen=True)
class Pointwise:
    """The three, eager or compiled."""

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]


EAGER = Pointwise(rms_norm, rotate, even_swiglu)


def is_wanted(compile: bool | None, device: torch.device) -> bool:
    """Whether to compile for `device`: as asked, or (None) on a GPU where it can be. ValueError says what it lacks."""
    if compile is False or (compile is None and device.type != "cuda"):
        return False
    names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
    lacks = [] if any(map(shutil.which, names)) else [f"a C compiler ({', '.join(names)})"]
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        lacks.append("Triton (pip install triton)")
    if compile and lacks:
        raise ValueError(
            f"load.compile: torch.compile lacks {' and '.join(lacks)}: install it, or leave load.compile out"
        )
    return not lacks


@cache
def compiled() -> Pointwise:
    """Fused by torch.compile for any number of tokens; how rows are packed is no business of theirs."""
    fuse = partial(torch.compile, dynamic=True)
    return Pointwise(fuse(rms_norm), fuse(rotate), fuse(swiglu))
