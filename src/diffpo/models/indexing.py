"""Indexing whose gradients and sums are the same in every run.

Where an index names a place twice, what goes there is added up. torch's own x[index] does that with several threads of
a CPU at once, in whichever order they come, and of the last bits of a sum the order decides.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from diffpo.models.device import on_card


def take(x: Tensor, index: Tensor) -> Tensor:
    """x[index] of `x` [N, ...] at whole numbers of any shape; gradients are added up in the order of the index."""
    return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])


def add_at(values: Tensor, rows: Tensor, columns: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sums of `values` [N] at places of a matrix of `shape`, 0 elsewhere, added up in their order."""
    zeros = values.new_zeros(shape)
    if on_card(values):  # a GPU has no order but in index_put, a CPU none in it
        return zeros.index_put((rows, columns), values, accumulate=True)
    return zeros.flatten().scatter_add(0, rows * shape[1] + columns, values).view(shape)
