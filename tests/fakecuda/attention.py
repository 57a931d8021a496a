"""Slow, obvious twins of the flash-attention kernels that `torch.nn.attention.varlen` calls on a card."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def register() -> torch.library.Library:
    """Make them the device's own; they stay while the library lives."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CUDA")
    library.impl("_flash_attention_backward", backward, "CUDA")
    return library


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends_q: Tensor,
    ends_k: Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    causal: bool,
    debug: bool,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Attention of packed rows; queries and keys of row i lie between bounds i and i + 1."""
    assert not (dropout or causal or debug) and settings.get("scale") is None
    assert settings.get("window_size_left") in (None, -1) and settings.get("window_size_right") in (None, -1)
    _check(query, key, value, ends_q, ends_k, max_q, max_k)
    out = _attend(query, key, value, ends_q, ends_k)
    lse = query.new_zeros(query.shape[1], len(query), dtype=torch.float32)  # no one reads it but the twin below
    nothing = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return out, lse, nothing, nothing, query.new_empty(0)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, ends_q: Tensor, ends_k: Tensor,
    *_: Any, **settings: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `forward` by autograd."""
    with torch.enable_grad():
        inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        return torch.autograd.grad(_attend(*inputs, ends_q, ends_k), inputs, grad)


def _attend(query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    bounds_q, bounds_k = ends_q.tolist(), ends_k.tolist()
    rows = []
    for row in range(len(bounds_q) - 1):
        q = query[bounds_q[row] : bounds_q[row + 1]].transpose(0, 1).float()
        k, v = (
            t[bounds_k[row] : bounds_k[row + 1]].transpose(0, 1).float().repeat_interleave(groups, 0)
            for t in (key, value)
        )
        weights = (q @ k.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(-1)
        rows.append((weights @ v).transpose(0, 1).to(query.dtype))
    return torch.cat(rows)


def _check(query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int) -> None:
    """What the kernels ask for."""
    for tensor in (query, key, value):
        assert tensor.is_cuda and tensor.dtype in (torch.bfloat16, torch.float16), tensor.dtype
        assert tensor.stride(-1) == 1 and tensor.shape[-1] % 8 == 0 and tensor.dtype == query.dtype
    assert int(ends_q[-1]) == len(query)
    for ends, packed, longest in ((ends_q, query, max_q), (ends_k, key, max_k)):
        assert ends.is_cuda and ends.dtype == torch.int32 and ends.is_contiguous()
        assert int(ends[0]) == 0 and int(ends[-1]) <= len(packed)
        assert int(ends.diff().max()) == longest
