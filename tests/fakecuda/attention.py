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
    """Attention of packed rows; queries and keys of row i lie between bounds i and i + 1, or its first `seqused_k`."""
    assert not (dropout or causal or debug) and settings.get("scale") is None
    assert settings.get("window_size_left") in (None, -1) and settings.get("window_size_right") in (None, -1)
    _check(query, key, value, ends_q, ends_k, max_q, max_k)
    out = _attend(query, key, value, ends_q, ends_k, settings.get("seqused_k"))
    lse = query.new_zeros(query.shape[1], len(query), dtype=torch.float32)  # no one reads it but the twin below
    nothing = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return out, lse, nothing, nothing, query.new_empty(0)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, ends_q: Tensor, ends_k: Tensor,
    *_: Any, **settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `forward`, by the chain rule: no autograd reaches below an operator."""
    by_query, by_key, by_value = (torch.zeros_like(tensor) for tensor in (query, key, value))
    for at_q, at_k in _rows(ends_q, ends_k):
        q, k, v, weights = _weights(query[at_q], key[at_k], value[at_k])
        by_out = grad[at_q].transpose(0, 1).float()
        by_weights = by_out @ v.transpose(1, 2)
        by_scores = weights * (by_weights - (weights * by_weights).sum(-1, keepdim=True)) / math.sqrt(q.shape[2])
        by_query[at_q] = (by_scores @ k).transpose(0, 1).to(query.dtype)
        for total, part in ((by_key, by_scores.transpose(1, 2) @ q), (by_value, weights.transpose(1, 2) @ by_out)):
            heads = part.unflatten(0, (key.shape[1], -1)).sum(1)  # the query heads that share one of the keys
            total[at_k] = heads.transpose(0, 1).to(key.dtype)
    return by_query, by_key, by_value


def _attend(query: Tensor, key: Tensor, value: Tensor, ends_q: Tensor, ends_k: Tensor, used: Tensor | None) -> Tensor:
    out = torch.empty_like(query)
    for row, (at_q, at_k) in enumerate(_rows(ends_q, ends_k)):
        if used is not None:
            at_k = slice(at_k.start, at_k.start + int(used[row]))
            assert at_q.start == at_q.stop or used[row] > 0
        _, _, v, weights = _weights(query[at_q], key[at_k], value[at_k])
        out[at_q] = (weights @ v).transpose(0, 1).to(query.dtype)
    return out


def _rows(ends_q: Tensor, ends_k: Tensor) -> list[tuple[slice, slice]]:
    """Where the queries and the keys of each row lie."""
    bounds = ends_q.tolist(), ends_k.tolist()
    return [tuple(slice(b[row], b[row + 1]) for b in bounds) for row in range(len(bounds[0]) - 1)]  # type: ignore[misc]


def _weights(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values [H, S, D] of a row in fp32, and its attention weights."""
    groups = query.shape[1] // key.shape[1]
    q, k, v = (tensor.transpose(0, 1).float() for tensor in (query, key, value))
    k, v = (tensor.repeat_interleave(groups, 0) for tensor in (k, v))
    return q, k, v, (q @ k.transpose(1, 2) / math.sqrt(q.shape[2])).softmax(-1)


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
