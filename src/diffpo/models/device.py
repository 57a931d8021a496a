"""Whose kernels and limits a tensor meets: those of the device it is on, or of a card that it is planned for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_planned_for_card = ContextVar("planned_for_card", default=False)


def on_card(tensor: Tensor) -> bool:
    """Whether a card's kernels and limits apply: the tensor is on one, or `as_on_card` says so."""
    return tensor.is_cuda or _planned_for_card.get()


@contextmanager
def as_on_card() -> Iterator[None]:
    """Within, tensors without data take the ways that they would take on a card (`diffpo plan`)."""
    token = _planned_for_card.set(True)
    try:
        yield
    finally:
        _planned_for_card.reset(token)
