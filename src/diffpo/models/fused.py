"""log softmax at one token a position, straight from hidden states: logits exist a chunk at a time, backward too."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffpo.functional.prediction import ban
from diffpo.models.device import on_card

MAX_LOGITS = {"cpu": 2**21, "cuda": 2**26}
"""Logits held at once, fp32: on a CPU near its cache, on a GPU 256 MB, and as much for temporaries."""


def token_logprobs(
    hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, banned: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """log softmax(hidden weight^T / temperature) at `tokens` [N] of final hidden states [N, D] and a head [V, D].

    Banned ids have no probability. Matrix products are in `dtype`, or the head's own. Differentiable once; where the
    head does not learn, the gradient costs one matrix product in the forward pass and none in the backward pass:

        d log p_t / d hidden = sum_v (1[v = t] - p_v) weight_v / temperature
    """
    return _TokenLogprobs.apply(hidden, weight, tokens, temperature, banned, dtype or weight.dtype)


def centred_logits(hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, banned: Tensor) -> Tensor:
    """log p_t - mean_v log p_v, p = softmax(hidden weight^T / temperature), of tokens [N] and ids not banned; in fp32.

    The normalisation cancels, and with it the logits: hidden (weight_t - mean_v weight_v) / temperature.
    """
    banned_sum = weight[banned].sum(0, dtype=torch.float32)
    mean = (weight.sum(0, dtype=torch.float32) - banned_sum) / (len(weight) - len(banned))
    return (hidden.float() * (F.embedding(tokens, weight).float() - mean)).sum(-1) / temperature


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, banned: Tensor, dtype: torch.dtype
    ) -> Tensor:
        moves, learns = ctx.needs_input_grad[:2]
        head = weight.to(dtype)
        scores = hidden.new_empty(len(tokens), dtype=torch.float32)
        slope = torch.empty_like(hidden) if moves and not learns else None
        kept = None  # of a single chunk the backward pass need not make it again
        for part in _chunks(len(tokens), head):
            logprobs = _log_softmax(hidden[part], head, temperature, banned)
            scores[part] = logprobs.gather(-1, tokens[part, None]).squeeze(-1)
            if slope is not None:
                # 1 - p_t is taken while both are fp32: of a likely token few bits of it would be left after rounding
                rest = logprobs.exp_().scatter_add_(1, tokens[part, None], scores.new_full((len(logprobs), 1), -1.0))
                slope[part] = (-(rest.to(dtype) @ head) / temperature).to(slope.dtype)
            elif learns and len(logprobs) == len(tokens):
                kept = logprobs
        ctx.save_for_backward(hidden, weight, tokens, banned, slope, kept)
        ctx.temperature, ctx.dtype = temperature, dtype
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, tokens, banned, slope, kept = ctx.saved_tensors
        nothing = (None,) * 4
        if slope is not None:
            return (slope * grad[:, None]).to(hidden.dtype), None, *nothing
        moves, learns = ctx.needs_input_grad[:2]
        if not learns:
            return None, None, *nothing
        head, factor = weight.to(ctx.dtype), grad / ctx.temperature
        by_hidden = torch.empty_like(hidden) if moves else None
        by_weight = torch.zeros_like(weight)
        for part in _chunks(len(tokens), head):
            logprobs = _log_softmax(hidden[part], head, ctx.temperature, banned) if kept is None else kept
            # d log p_t / d logits = onehot(t) - p
            slopes = logprobs.exp() if kept is not None else logprobs.exp_()
            slopes.mul_(-factor[part, None]).scatter_add_(1, tokens[part, None], factor[part, None])
            slopes = slopes.to(ctx.dtype)
            if by_hidden is not None:
                by_hidden[part] = (slopes @ head).to(hidden.dtype)
            if by_weight.dtype == ctx.dtype:
                by_weight.addmm_(slopes.T, hidden[part].to(ctx.dtype))
            else:
                by_weight += slopes.T @ hidden[part].to(ctx.dtype)
        return by_hidden, by_weight, *nothing


def _chunks(count: int, head: Tensor) -> Iterator[slice]:
    size = max(1, MAX_LOGITS["cuda" if on_card(head) else "cpu"] // len(head))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def head_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """Logits in fp32, [N, V], of hidden states [N, D] and a head [V, D], whose dtype is that of the products.

    Between 16 and 32 bf16 has steps of 0.125. Without gradients, and where the device can, sums are not rounded to it.
    """
    hidden = hidden.to(head.dtype)
    if not torch.is_grad_enabled() and keeps_sums(head.device, head.dtype):
        return torch.mm(hidden, head.T, out_dtype=torch.float32)  # it has no derivative
    return F.linear(hidden, head).float()


@functools.cache
def keeps_sums(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of `dtype` can come out of the device as the fp32 sums that they are. It is asked, once."""
    if device.type != "cuda" or dtype == torch.float32:
        return False
    some = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        torch.mm(some, some, out_dtype=torch.float32)
    except RuntimeError:  # NotImplementedError among them: another build, an older card
        return False
    return True


def _log_softmax(hidden: Tensor, head: Tensor, temperature: float, banned: Tensor) -> Tensor:
    logits = ban(head_logits(hidden, head), banned)
    return (logits if temperature == 1 else logits.div_(temperature)).log_softmax(-1)
