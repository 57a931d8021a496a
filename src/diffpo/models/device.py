"""Whose kernels and limits a tensor meets: those of the device it is on, or of a card that it is planned for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor

MIN_ROWS = 32
"""Below so many rows BLAS sums a matrix product in another order, and a row's numbers would depend on its batch."""

_planned_for_card = ContextVar("planned_for_card", default=False)


def on_card(tensor: Tensor) -> bool:
    """Whether a card's kernels and limits apply: the tensor is on one, or `as_on_card` says so."""
    return tensor.is_cuda or _planned_for_card.get()


def is_slow_in_half(device: torch.device) -> bool:
    """Whether `device` is an x86 CPU without units for bfloat16, and this torch (from 2.13) says so."""
    units = getattr(torch.cpu, "get_capabilities", dict)()
    has_units = units.get("avx512_bf16") or units.get("amx_bf16")
    return device.type == "cpu" and units.get("architecture") == "x86_64" and not has_units


@contextmanager
def as_on_card() -> Iterator[None]:
    """Within, tensors without data take the ways that they would take on a card (`diffpo plan`)."""
    token = _planned_for_card.set(True)
    try:
        yield
    finally:
        _planned_for_card.reset(token)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; the host does not wait for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def ship(device: torch.device, **columns: Tensor) -> dict[str, Tensor]:
    """Whole numbers and flags of the CPU on `device`, in one copy."""
    if device.type == "cpu":
        return columns
    sizes = [len(column) for column in columns.values()]
    parts = to_device(torch.cat([column.long() for column in columns.values()]), device).split(sizes)
    return {name: part.to(columns[name].dtype) for name, part in zip(columns, parts, strict=True)}


class Flash(NamedTuple):
    """A card's kernel for rows of any length."""

    attend: Callable[..., Any]
    takes_groups: bool
    """Whether it takes fewer keys than queries: not in torch 2.11."""
    takes_used: bool
    """Whether it takes keys that are a part of what lies in a row's place: not in torch 2.11."""


@cache
def flash() -> Flash:
    """That of torch. Its module imports all of torch.compile, which takes as long as the rest of torch."""
    from torch.nn.attention.varlen import varlen_attn

    arguments = signature(varlen_attn).parameters
    return Flash(varlen_attn, "enable_gqa" in arguments, "seqused_k" in arguments)
